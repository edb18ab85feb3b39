"""One run: build, fit, judge, report, finish."""
