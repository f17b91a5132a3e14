"""Tiny random models of many families."""

from tests.adapters.conftest import family_model  # noqa: F401 -- a fixture
