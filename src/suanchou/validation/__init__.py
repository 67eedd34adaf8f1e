"""Validation: what the cost model predicts for published runs, beside what was measured."""
