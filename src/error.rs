//! What can be wrong with a call: one variant per kind of mistake, each naming the argument.

/// Why a description or a call was refused. Nothing has been written when one of these is returned,
/// except where a device failed midway: [`CudaError::Driver`] and [`Error::Kernel`].
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
    /// Two views of every image are an even number of rows.
    #[error("`z` has {given} rows; two views of each image are an even number of rows")]
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
    /// Inputs of another layout than the contrast is defined on.
    #[error("`inputs` is Inputs::{given}; {contrast} is defined on Inputs::{expected}")]
    Inputs {
        /// Name of the contrast.
        contrast: &'static str,
        /// The variant given.
        given: &'static str,
        /// The variant needed.
        expected: &'static str,
    },
    /// Positives off the diagonal where columns have a loss too.
    #[error(
        "`inputs.positives` is not the diagonal, which {contrast} needs: its columns have a loss too"
    )]
    Positives {
        /// Name of the contrast.
        contrast: &'static str,
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
    /// An engine that cannot work on this machine.
    #[error("the {engine} engine is not available: {reason}")]
    Unavailable {
        /// Name of the engine.
        engine: &'static str,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// An option of an engine that the device, or another option, rules out.
    #[error("`{option}` is not supported here: {reason}")]
    Unsupported {
        /// Name of the option.
        option: &'static str,
        /// What rules it out.
        reason: &'static str,
    },
    /// A kernel that cannot be launched, or that failed.
    #[error("the kernel `{kernel}` cannot run: {reason}")]
    Kernel {
        /// Name of the kernel.
        kernel: String,
        /// Why.
        reason: String,
    },
    /// Rows that lie too close to each other.
    #[error("`{argument}` has a row stride of {given}; rows of dimension {dim} need {dim} or more")]
    Stride {
        /// Name of the argument.
        argument: &'static str,
        /// Elements from row to row, as given.
        given: usize,
        /// Elements of a row.
        dim: usize,
    },
    /// What only a CUDA engine can find wrong.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

/// What can be wrong with a call of the CUDA engine alone.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// A call of the CUDA driver that failed. An asynchronous failure shows in a later call than
    /// the one that caused it.
    #[error("{call} failed: {name} (CUDA error {code})")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// The driver's error code.
        code: u32,
        /// The driver's name of it.
        name: String,
    },
    /// A null pointer.
    #[error("`{argument}` is a null pointer")]
    Null {
        /// Name of the argument.
        argument: &'static str,
    },
    /// Memory that does not start at a multiple of what the number type or a call needs.
    #[error("`{argument}` has an address or a row stride that is no multiple of {required} bytes")]
    Alignment {
        /// Name of the argument.
        argument: &'static str,
        /// Bytes of which address and row stride must be multiples.
        required: usize,
    },
    /// Rows with gaps between them where there may be none.
    #[error(
        "`{argument}` has rows of {dim} elements at a stride of {given}; it must be contiguous"
    )]
    Contiguity {
        /// Name of the argument.
        argument: &'static str,
        /// Elements from row to row.
        given: usize,
        /// Elements of a row.
        dim: usize,
    },
    /// Memory of another device, or whose work is ordered by another stream.
    #[error("`{argument}` belongs to {given}; this call works on {expected}")]
    Device {
        /// Name of the argument.
        argument: &'static str,
        /// Where the memory belongs.
        given: String,
        /// Where it has to.
        expected: String,
    },
    /// An output that shares memory with another argument.
    #[error("`{argument}` shares memory with `{other}`; outputs need memory of their own")]
    Aliasing {
        /// Name of the output.
        argument: &'static str,
        /// Name of the argument that it overlaps.
        other: &'static str,
    },
    /// A queue that still has room, in a step that is recorded with as many keys as it can hold.
    #[error(
        "`queue` holds {fill} of {capacity} keys; a recorded step needs a full one, of random unit rows to begin with"
    )]
    QueueNotFull {
        /// Keys in the queue.
        fill: usize,
        /// Keys that it can hold.
        capacity: usize,
    },
    /// A call that a graph cannot hold, because it waits for results or keeps count on the host,
    /// while its stream is recorded into one.
    #[error("`{call}` needs the host, and the stream is being captured into a graph")]
    Capture {
        /// The call.
        call: &'static str,
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
