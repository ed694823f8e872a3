"""The application for ASGI servers such as ``uvicorn hx_gateway.asgi:app``. Its stores need URLs: it starts none."""

from hx_gateway.app import build_app
from hx_gateway.settings import load_settings

app = build_app(load_settings().settings)
