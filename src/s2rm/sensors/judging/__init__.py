"""Scores of forecasts beside those of simple predictors, the verdict, and their report."""
