import io

from recipe.base import progress


def test_a_log_gets_lines_and_a_terminal_a_bar(monkeypatch):
    log, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    for file in (log, terminal):
        with progress.progress(total=3, desc="reading", file=file) as bar:
            for _ in range(3):
                bar.update()
    assert "\r" not in log.getvalue()
    assert "\r" in terminal.getvalue()
    lines = log.getvalue().split("\n")
    lines = [line for line in lines if line]
    # The first and the last state; a minute has not passed between them.
    assert len(lines) == 2
    assert lines[-1].startswith("reading: 100%") and "3/3" in lines[-1]


def test_lines_come_as_often_as_they_may(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    log = io.StringIO()
    with progress.progress(total=5, file=log, miniters=1) as bar:
        for _ in range(5):
            bar.update()
    assert [f"{n}/5" in line for n, line in enumerate(log.getvalue().splitlines())].count(True) >= 5
