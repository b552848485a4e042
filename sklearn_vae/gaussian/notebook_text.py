"""Results that notebooks show as text."""

from __future__ import annotations

import html


class NotebookText:
    """Mixin of results whose text replaces the list of their fields in notebooks."""

    def _repr_html_(self) -> str:
        text = html.escape(str(self), quote=False)
        return f'<pre style="white-space: pre-wrap">{text}</pre>'
