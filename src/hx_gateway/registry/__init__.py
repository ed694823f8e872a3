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
from hx_gateway.registry.bulk import Bulk, BulkOptions, BulkOutcome, Selection
from hx_gateway.registry.catalog import Catalog, ServicePage
from hx_gateway.registry.dependencies import Dependencies
from hx_gateway.registry.errors import Deleted, DependencyCycle, HasDependents, VersionConflict
from hx_gateway.registry.graph import Edge, Node, ServiceGraph
from hx_gateway.registry.item_graph import Impact, ImpactedService
from hx_gateway.registry.item_repository import RegistryItemRepository, ServiceSearch, ServiceStatistics
from hx_gateway.registry.repository import BaseRepository, BulkFailure, BulkRefused, BulkResult, Page
from hx_gateway.registry.standing import Standing
from hx_gateway.registry.tools import Tools
from hx_gateway.registry.transactions import Transaction, Transactions

__all__ = [
    "AuditTrail",
    "Author",
    "BaseRepository",
    "BuildType",
    "Bulk",
    "BulkFailure",
    "BulkOptions",
    "BulkOutcome",
    "BulkRefused",
    "BulkResult",
    "Catalog",
    "Deleted",
    "Dependencies",
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
    "Selection",
    "ServiceGraph",
    "ServicePage",
    "ServicePriority",
    "ServiceProtocol",
    "ServiceSearch",
    "ServiceStatistics",
    "ServiceStatus",
    "Standing",
    "Tools",
    "Transaction",
    "Transactions",
    "VersionConflict",
]
