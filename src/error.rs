//! [`Error`]: why a call was refused, one variant for each kind of mistake.

/// Why a call was refused. `argument` is the argument's name, `given` what was passed, `expected` or `allowed`
/// what it must be. A call that returns an error has written nothing, unless a device failed midway:
/// [`CudaError::Driver`] and [`Error::Kernel`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A scalar outside its range, or not finite.
    #[error("`{argument}` is {given}; it must be {allowed}")]
    Scalar {
        argument: &'static str,
        given: f64,
        allowed: &'static str,
    },
    /// A matrix without rows or without columns.
    #[error("`{argument}` has {rows} rows of dimension {dim}; both must be at least 1")]
    Empty {
        argument: &'static str,
        rows: usize,
        dim: usize,
    },
    /// A slice whose length does not fit the stated shape.
    #[error("`{argument}` holds {given} elements; its shape needs {expected}")]
    Length {
        argument: &'static str,
        given: usize,
        expected: usize,
    },
    /// A matrix whose dimension D differs from the anchors'.
    #[error("`{argument}` has dimension {given}; the anchors have {expected}")]
    Dimension {
        argument: &'static str,
        given: usize,
        /// D of the anchors.
        expected: usize,
    },
    /// A matrix or vector with the wrong number of rows.
    #[error("`{argument}` has {given} rows; it must have {expected}")]
    Rows {
        argument: &'static str,
        given: usize,
        expected: usize,
    },
    /// Two views of every image in an odd number of rows.
    #[error("`z` has {given} rows; two views of each image are an even number of rows")]
    OddRows { given: usize },
    /// A positive index that names no candidate.
    #[error("`positives[{row}]` is {given}; there are {candidates} candidates")]
    PositiveOutOfRange {
        /// The anchor whose positive is wrong.
        row: usize,
        given: u32,
        /// M, the number of candidates.
        candidates: usize,
    },
    /// Lists of positives that contradict themselves.
    #[error("`positives` has no list for row {row}: {reason}")]
    PositiveLists {
        /// The anchor whose list is wrong.
        row: usize,
        reason: &'static str,
    },
    /// An element of a vector outside its range.
    #[error("`{argument}[{index}]` is {given}; it must be {allowed}")]
    Element {
        argument: &'static str,
        index: usize,
        given: f32,
        allowed: &'static str,
    },
    /// A row that holds NaN or infinity, or is too long for f32.
    #[error("`{argument}[{row}]` has no finite length")]
    NotFinite { argument: &'static str, row: usize },
    /// An index that names no row of a matrix.
    #[error("`{argument}[{place}]` is {given}; there are {rows} rows")]
    RowOutOfRange {
        argument: &'static str,
        /// The place of the index among those given.
        place: usize,
        given: u32,
        /// The rows that there are.
        rows: usize,
    },
    /// Inputs of another layout than the contrast is defined on.
    #[error("`inputs` is Inputs::{given}; {contrast} is defined on Inputs::{expected}")]
    Inputs {
        contrast: &'static str,
        given: &'static str,
        expected: &'static str,
    },
    /// Positives off the diagonal where columns have a loss too.
    #[error(
        "`inputs.positives` is not the diagonal, which {contrast} needs: its columns have a loss too"
    )]
    Positives { contrast: &'static str },
    /// A gradient that this contrast does not have.
    #[error("`gradients.dk` was asked for; {contrast} has no such gradient ({reason})")]
    NoCandidateGradient {
        contrast: &'static str,
        reason: &'static str,
    },
    /// More candidates asked for than there are.
    #[error("`k` is {given}; it must be between 1 and {available}, the candidates there are")]
    TopK {
        given: usize,
        /// Candidates that an anchor can have.
        available: usize,
    },
    /// A query with fewer candidates that may be drawn as its negatives than it needs.
    #[error(
        "query {query} has {available} candidates that are not its positives; {wanted} negatives are wanted"
    )]
    TooFewNegatives {
        query: usize,
        /// Candidates that are not its positives.
        available: usize,
        wanted: usize,
    },
    /// The positive or negative of a triplet that names no candidate.
    #[error("`{argument}[{row}]` is {given}; there are {candidates} candidates")]
    TripletOutOfRange {
        argument: &'static str,
        /// The anchor.
        row: usize,
        given: u32,
        /// M, the number of candidates.
        candidates: usize,
    },
    /// A saved state that contradicts itself.
    #[error("the saved queue state is inconsistent: {reason}")]
    QueueState { reason: String },
    /// Keys with labels for a queue that keeps none, or the reverse.
    #[error("`labels` are {given}; the queue keeps {expected}")]
    QueueLabels {
        given: &'static str,
        expected: &'static str,
    },
    /// The thread pool could not be started.
    #[error("`threads` is {given}: no thread pool could be started ({reason})")]
    Threads {
        given: usize,
        /// The operating system's reason.
        reason: String,
    },
    /// An engine that cannot work on this machine.
    #[error("the {engine} engine is not available: {reason}")]
    Unavailable {
        engine: &'static str,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// An option of an engine that the device, or another option, rules out.
    #[error("`{option}` is not supported here: {reason}")]
    Unsupported {
        option: &'static str,
        reason: &'static str,
    },
    /// A kernel that cannot be launched, or that failed.
    #[error("the kernel `{kernel}` cannot run: {reason}")]
    Kernel { kernel: String, reason: String },
    /// Rows that lie too close to each other.
    #[error("`{argument}` has a row stride of {given}; rows of dimension {dim} need {dim} or more")]
    Stride {
        argument: &'static str,
        /// Elements from row to row, as given.
        given: usize,
        /// Elements of a row.
        dim: usize,
    },
    /// An error of the CUDA engine alone.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

/// Errors of the CUDA engine alone; fields as in [`Error`].
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
        /// The driver's name for the code.
        name: String,
    },
    /// A null pointer.
    #[error("`{argument}` is a null pointer")]
    Null { argument: &'static str },
    /// Memory whose address or row stride is not aligned as its element type or a call needs.
    #[error("`{argument}` has an address or a row stride that is no multiple of {required} bytes")]
    Alignment {
        argument: &'static str,
        /// Bytes of which address and row stride must be multiples.
        required: usize,
    },
    /// Rows with gaps between them where there may be none.
    #[error(
        "`{argument}` has rows of {dim} elements at a stride of {given}; it must be contiguous"
    )]
    Contiguity {
        argument: &'static str,
        /// Elements from row to row.
        given: usize,
        /// Elements of a row.
        dim: usize,
    },
    /// Memory of another device, or whose work is ordered by another stream.
    #[error("`{argument}` belongs to {given}; this call works on {expected}")]
    Device {
        argument: &'static str,
        /// Where the memory belongs.
        given: String,
        /// Where it must belong.
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
    /// A step with a queue that is not full, which cannot be recorded into a graph.
    #[error(
        "`queue` holds {fill} of {capacity} keys; a recorded step needs a full one, of random unit rows to begin with"
    )]
    QueueNotFull {
        /// Keys in the queue.
        fill: usize,
        /// Keys that it can hold.
        capacity: usize,
    },
    /// A call on a stream that is captured into a graph, though it waits for results or counts on the host.
    #[error("`{call}` needs the host, and the stream is being captured into a graph")]
    Capture { call: &'static str },
}

/// A scalar, if it is `legal`.
pub(crate) fn within(
    argument: &'static str,
    given: f32,
    allowed: &'static str,
    legal: bool,
) -> Result<f32, Error> {
    match legal {
        true => Ok(given),
        false => Err(Error::Scalar {
            argument,
            given: f64::from(given),
            allowed,
        }),
    }
}

/// A scalar, if it is finite and greater than zero.
pub(crate) fn positive(argument: &'static str, given: f32) -> Result<f32, Error> {
    let legal = given.is_finite() && given > 0.0;
    within(argument, given, "finite and greater than 0", legal)
}

/// 1/τ of a temperature τ, if τ is finite and greater than zero and so is 1/τ.
pub(crate) fn inverse(argument: &'static str, temperature: f32) -> Result<f32, Error> {
    let scale = 1.0 / positive(argument, temperature)?;
    let allowed = "large enough that 1/temperature is finite";
    within(argument, temperature, allowed, scale.is_finite())?;
    Ok(scale)
}
