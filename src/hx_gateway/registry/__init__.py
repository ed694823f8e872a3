"""The registry: which services there are, how they are, and what they depend on."""

from hx_gateway.db.models.registry_items import (
    BuildType,
    DependencyKind,
    RegistryItem,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)
from hx_gateway.registry.audit_trail import AuditTrail, Author
from hx_gateway.registry.catalog import BulkOutcome, Catalog, HasDependents, ServicePage
from hx_gateway.registry.errors import DependencyCycle, VersionConflict
from hx_gateway.registry.graph import Edge, Node, ServiceGraph
from hx_gateway.registry.item_graph import Impact, ImpactedService
from hx_gateway.registry.item_repository import RegistryItemRepository, ServiceSearch, ServiceStatistics
from hx_gateway.registry.repository import BaseRepository, BulkFailure, BulkRefused, BulkResult, Page

__all__ = [
    "AuditTrail",
    "Author",
    "BaseRepository",
    "BuildType",
    "BulkFailure",
    "BulkOutcome",
    "BulkRefused",
    "BulkResult",
    "Catalog",
    "DependencyCycle",
    "DependencyKind",
    "Edge",
    "HasDependents",
    "Impact",
    "ImpactedService",
    "Node",
    "Page",
    "RegistryItem",
    "RegistryItemRepository",
    "ServiceGraph",
    "ServicePage",
    "ServicePriority",
    "ServiceProtocol",
    "ServiceSearch",
    "ServiceStatistics",
    "ServiceStatus",
    "VersionConflict",
]
