"""Array types with shapes in them, for annotations: jaxtyping's, which the tests check at every call.

Only the tests need jaxtyping. Where it is not installed the same names say nothing about shapes.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Array", "Bool", "Float", "Float32", "Int32", "Key", "UInt8"]

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Float32, Int32, Key, UInt8
else:
    try:
        from jaxtyping import Array, Bool, Float, Float32, Int32, Key, UInt8
    except ImportError:
        from jax import Array

        class _AnyShape:
            def __class_getitem__(cls, item: Any) -> Any:
                return Any

        Bool = Float = Float32 = Int32 = Key = UInt8 = _AnyShape
