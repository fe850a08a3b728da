"""The page of lint rules says what the rules say."""

from tools.lint_docs import PAGE, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tools.lint_docs"
