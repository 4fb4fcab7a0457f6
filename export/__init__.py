"""Models in, artifacts out: model zoo, torch import, training artifacts and their costs."""
