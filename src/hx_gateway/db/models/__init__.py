"""Tables as SQLAlchemy sees them: the migrations make them, these say what they hold."""
