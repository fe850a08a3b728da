"""The suites of models that `tools/zoo` runs through qatc, and what it does with each model."""
