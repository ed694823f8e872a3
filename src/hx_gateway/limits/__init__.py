"""Rates, parallel calls and budgets: decided in one step, settled once, kept through any loss."""
