"""The methods: one module for each, with its settings, defaults, rules, names, and what it trains in numbers.

`method.Method` is what every module subclasses. The table of all methods is `finetune_api.spec.method.METHODS`.
"""
