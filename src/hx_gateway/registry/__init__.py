"""The registry: which services there are, how they are, and what they depend on."""

from hx_gateway.db.models.registry_items import (
    BuildType,
    RegistryItem,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)
from hx_gateway.registry.audit_trail import AuditTrail, Author
from hx_gateway.registry.errors import DependencyCycle, VersionConflict
from hx_gateway.registry.item_repository import RegistryItemRepository, ServiceStatistics
from hx_gateway.registry.repository import BaseRepository, BulkFailure, BulkRefused, BulkResult, Page

__all__ = [
    "AuditTrail",
    "Author",
    "BaseRepository",
    "BuildType",
    "BulkFailure",
    "BulkRefused",
    "BulkResult",
    "DependencyCycle",
    "Page",
    "RegistryItem",
    "RegistryItemRepository",
    "ServicePriority",
    "ServiceProtocol",
    "ServiceStatistics",
    "ServiceStatus",
    "VersionConflict",
]
