from tests.api.service.conftest import curated

__all__ = ["curated"]
