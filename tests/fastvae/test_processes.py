"""How processes begin."""

import gc

import pytest

from fastvae import processes


def test_nobody_looks_for_garbage_in_what_is_imported() -> None:
    before = gc.get_freeze_count()
    try:
        with processes.imports():
            assert not gc.isenabled()
            stays = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > before + len(stays)
        with pytest.raises(ModuleNotFoundError), processes.imports():
            import fastvae.nothing  # type: ignore[import-not-found]  # noqa: F401
        assert gc.isenabled()
        gc.disable()
        with processes.imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
