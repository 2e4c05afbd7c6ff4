"""As in suites/meta: tests that start processes say so."""

from suites.meta.conftest import no_process_of_a_unit_test, pytest_collection_modifyitems

__all__ = ["no_process_of_a_unit_test", "pytest_collection_modifyitems"]
