"""The first guess of every query, a mixture of simple predictors that a model corrects."""
