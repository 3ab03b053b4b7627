//! The matrices that gradients are written to.

/// The matrices that gradients are written to; `V` is an engine's writable matrix.
#[derive(Debug)]
pub struct Gradients<V> {
    /// ∂loss/∂q, N × D (∂loss/∂z for NT-Xent).
    pub dq: V,
    /// ∂loss/∂k, M × D, if wanted. A one-way loss without it computes fewer matrix products. It must be `None`
    /// where the contrast has none ([`Contrast::has_dk`](crate::Contrast::has_dk)).
    pub dk: Option<V>,
    /// ∂loss/∂c, 1 × M, if wanted: of the biases of
    /// [`Problem::with_column_bias`](crate::Problem::with_column_bias); of a pointwise rule ∂loss/∂b, 1 × 1.
    pub dbias: Option<V>,
    /// Whether they are added to the outputs' contents.
    pub accumulate: Accumulate,
}

/// Which gradients are added to the outputs' contents, in f32 and rounded once; the others overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accumulate {
    /// dq.
    pub anchors: bool,
    /// dk and dbias.
    pub candidates: bool,
}

impl Accumulate {
    /// All are added.
    pub const ALL: Self = Self {
        anchors: true,
        candidates: true,
    };
}

impl<V> Gradients<V> {
    /// Outputs that the call overwrites.
    pub fn new(dq: V, dk: Option<V>) -> Self {
        Self {
            dq,
            dk,
            dbias: None,
            accumulate: Accumulate::default(),
        }
    }

    /// The same outputs, and one for the gradient of the bias.
    #[must_use]
    pub fn with_bias(self, dbias: V) -> Self {
        Self {
            dbias: Some(dbias),
            ..self
        }
    }

    /// The same outputs; gradients are added to their contents.
    #[must_use]
    pub fn accumulating(self) -> Self {
        Self {
            accumulate: Accumulate::ALL,
            ..self
        }
    }
}
