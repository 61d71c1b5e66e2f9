"""A small study, as its file has it."""

GIVEN = {
    "overrides": ["+experiment=cpu_demo"],
    "cells": {"one": ["data.task=a"], "other": ["data.task=b"]},
    "arms": {"token": ["aggregation=token"], "balanced": ["aggregation=balanced"]},
    "learning_rates": [1e-4, 2e-4],
    "selection_seeds": [100, 101],
    "seeds": 3,
    "held_out_every": 2,
    "held_out_samples": 2,
    "results": "outputs/study",
    "predict": [],
}
