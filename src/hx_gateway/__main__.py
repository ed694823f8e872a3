"""``python -m hx_gateway`` is ``hx-gateway``."""

from hx_gateway.cli.main import main

if __name__ == "__main__":
    main()
