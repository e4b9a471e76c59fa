"""What the inverted lists of MultiLevelPQ hold, and how it is scanned."""

from pqlib.indexes.codes.product import ProductCodes, list_codes
from pqlib.indexes.codes.quantized import ListCodes

__all__ = ["ListCodes", "ProductCodes", "list_codes"]
