//! What can be wrong with a call: one variant per kind of mistake, each naming the argument.

/// Why a description or a call was refused. Nothing has been written when one of these is returned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A scalar outside its range, or not finite.
    #[error("`{argument}` is {given}; it must be {allowed}")]
    Scalar {
        /// Name of the argument.
        argument: &'static str,
        /// The value passed.
        given: f64,
        /// The range in words.
        allowed: &'static str,
    },
    /// A matrix without rows or without columns.
    #[error("`{argument}` has {rows} rows of dimension {dim}; both must be at least 1")]
    Empty {
        /// Name of the argument.
        argument: &'static str,
        /// Rows given.
        rows: usize,
        /// Dimension given.
        dim: usize,
    },
    /// A slice whose length does not fit the stated shape.
    #[error("`{argument}` holds {given} elements; its shape needs {expected}")]
    Length {
        /// Name of the argument.
        argument: &'static str,
        /// Elements given.
        given: usize,
        /// Elements needed.
        expected: usize,
    },
    /// A matrix whose dimension D differs from the anchors'.
    #[error("`{argument}` has dimension {given}; the anchors have {expected}")]
    Dimension {
        /// Name of the argument.
        argument: &'static str,
        /// D given.
        given: usize,
        /// D of the anchors.
        expected: usize,
    },
    /// A matrix or vector with the wrong number of rows.
    #[error("`{argument}` has {given} rows; it must have {expected}")]
    Rows {
        /// Name of the argument.
        argument: &'static str,
        /// Rows given.
        given: usize,
        /// Rows needed.
        expected: usize,
    },
    /// NT-Xent takes two views of every image, so an even number of rows.
    #[error(
        "`z` has {given} rows; NT-Xent needs two views of each image, so an even number of rows"
    )]
    OddRows {
        /// Rows given.
        given: usize,
    },
    /// A positive index that names no candidate.
    #[error("`positives[{row}]` is {given}; there are {candidates} candidates")]
    PositiveOutOfRange {
        /// The anchor whose positive is wrong.
        row: usize,
        /// The index given.
        given: u32,
        /// M, the number of candidates.
        candidates: usize,
    },
    /// Inputs of another form than the contrast is defined on.
    #[error("`inputs` is Inputs::{given}; {contrast} is defined on Inputs::{expected}")]
    Inputs {
        /// Name of the contrast.
        contrast: &'static str,
        /// The variant given.
        given: &'static str,
        /// The variant needed.
        expected: &'static str,
    },
    /// A gradient that this contrast does not have.
    #[error("`gradients.dk` was asked for; {contrast} has no such gradient ({reason})")]
    NoCandidateGradient {
        /// Name of the contrast.
        contrast: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// More candidates asked for than there are.
    #[error("`k` is {given}; it must be between 1 and {available}, the candidates there are")]
    TopK {
        /// k given.
        given: usize,
        /// Candidates that an anchor can have.
        available: usize,
    },
    /// A saved state that contradicts itself.
    #[error("the saved queue state is inconsistent: {reason}")]
    QueueState {
        /// What does not fit.
        reason: String,
    },
    /// The thread pool could not be started.
    #[error("`threads` is {given}: no thread pool could be started ({reason})")]
    Threads {
        /// Threads asked for.
        given: usize,
        /// The operating system's reason.
        reason: String,
    },
}

/// Checks that a scalar is finite and greater than zero.
pub(crate) fn positive(argument: &'static str, given: f32) -> Result<f32, Error> {
    if given.is_finite() && given > 0.0 {
        return Ok(given);
    }
    Err(Error::Scalar {
        argument,
        given: f64::from(given),
        allowed: "finite and greater than 0",
    })
}
