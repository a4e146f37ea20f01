"""The routes of plain HTTP, and what every request passes."""
