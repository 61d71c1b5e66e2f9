import io

from recipe.base import progress


def test_short_work_leaves_no_line_in_a_log_and_a_bar_in_a_terminal():
    log, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    for file in (log, terminal):
        with progress.progress(total=3, desc="reading", file=file) as bar:
            for _ in range(3):
                bar.update()
    assert log.getvalue() == ""
    assert "\r" in terminal.getvalue() and "3/3" in terminal.getvalue()


def test_long_work_leaves_whole_lines_in_a_log(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    log = io.StringIO()
    with progress.progress(total=5, file=log, miniters=1) as bar:
        for _ in range(5):
            bar.update()
    assert "\r" not in log.getvalue()
    lines = [line for line in log.getvalue().splitlines() if line]
    assert lines[-1].startswith("100%") and "5/5" in lines[-1]
    assert any("3/5" in line for line in lines)
