"""How the rate follows the link: pure functions over frozen dataclasses; time and reports come in as arguments."""
