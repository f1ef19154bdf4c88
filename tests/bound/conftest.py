"""Prints what the release-Lipschitz tests saw: the share of gradients that are not 0, and the largest ratios."""

from __future__ import annotations

from typing import Any

from report_ratios import lines


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    seen = [value for report in reports for name, value in report.user_properties if name == "release"]
    if seen:
        terminalreporter.section("largest ratio of a gradient of z to its release-Lipschitz constant")
        for line in lines(seen):
            terminalreporter.write_line(line)
