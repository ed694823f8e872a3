"""Other registries that tenants take servers from: followed, and never preferred to what somebody decided here."""
