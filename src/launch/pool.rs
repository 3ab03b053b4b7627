//! [`Pool`]: device memory that is kept from call to call.
//!
//! A block goes back to the pool when its owner drops it. Kernels that use it may still be waiting to run; the next
//! owner's work follows them on the same stream. Sizes are rounded to eighths of a power of two, and a request takes a
//! block of exactly its rounded size. The second call of a shape therefore finds the blocks of the first, at the same
//! addresses, whatever ran in between.
//!
//! A graph uses its blocks each time it runs, long after the recorded calls have dropped them. Blocks that are taken
//! while a graph is recorded therefore serve that graph alone until it is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// Allocates the memory of a pool.
pub(crate) trait Source {
    /// `bytes` bytes aligned to 256.
    fn allocate(&self, bytes: usize) -> Result<u64, Error>;
    /// Frees memory, once the work on it has ended.
    fn release(&self, address: u64);
    /// Whether an error says that there is no memory left.
    fn is_exhausted(&self, error: &Error) -> bool;
}

/// Addresses of blocks by size, the last freed last.
type Addresses = BTreeMap<usize, Vec<u64>>;

#[derive(Debug, Default)]
struct State {
    free: Addresses,
    /// Bytes of blocks in use, those of graphs included.
    used_bytes: usize,
    /// Free blocks of each graph, by the graph's number.
    graphs: BTreeMap<u64, Addresses>,
    /// The number of the graph that is being recorded, and of the last one.
    recording: Option<u64>,
    recorded: u64,
}

/// The blocks of one stream.
#[derive(Debug)]
pub(crate) struct Pool<S: Source> {
    source: S,
    state: Mutex<State>,
}

/// A block of device memory. Dropping it returns it to its pool.
#[derive(Debug)]
pub(crate) struct Block<S: Source> {
    pool: Arc<Pool<S>>,
    address: u64,
    bytes: usize,
    /// The graph in whose recording it was taken.
    graph: Option<u64>,
}

/// Owns the blocks that are taken until [`end_recording`](Self::end_recording). Dropping it returns them to the pool.
#[derive(Debug)]
pub(crate) struct GraphMemory<S: Source> {
    pool: Arc<Pool<S>>,
    graph: u64,
}

/// The size of the block for `bytes`: at most an eighth more, at least 512, a multiple of 64.
fn rounded(bytes: usize) -> usize {
    let bytes = bytes.max(512);
    let step = 1 << (bytes.ilog2() - 3);
    // A size that overflows when rounded cannot be allocated either.
    bytes.checked_next_multiple_of(step).unwrap_or(bytes)
}

impl<S: Source> Pool<S> {
    pub(crate) fn new(source: S) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { source, state })
    }

    /// A block of at least `bytes` bytes. Its contents are whatever was there before.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Block<S>, Error> {
        let bytes = rounded(bytes);
        let mut state = self.state();
        let graph = state.recording;
        let block = |address| Block {
            pool: Arc::clone(self),
            address,
            bytes,
            graph,
        };
        let of_graph = graph.and_then(|graph| state.graphs.get_mut(&graph));
        if let Some(address) = of_graph.and_then(|blocks| blocks.get_mut(&bytes)?.pop()) {
            return Ok(block(address));
        }
        let address = match state.free.get_mut(&bytes).and_then(Vec::pop) {
            Some(address) => address,
            None => match self.source.allocate(bytes) {
                Err(error) if state.free_bytes() > 0 && self.source.is_exhausted(&error) => {
                    self.give_back(&mut state);
                    self.source.allocate(bytes)?
                }
                result => result?,
            },
        };
        state.used_bytes += bytes;
        Ok(block(address))
    }

    /// Gives free blocks back to the source.
    pub(crate) fn trim(&self) {
        self.give_back(&mut self.state());
    }

    /// Bytes that the pool has from its source: in use, and free.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let state = self.state();
        (state.used_bytes, state.free_bytes())
    }

    /// Blocks that are taken from now on belong to a graph that is being recorded. One is recorded at a time.
    pub(crate) fn record(self: &Arc<Self>) -> GraphMemory<S> {
        let mut state = self.state();
        state.recorded += 1;
        let graph = state.recorded;
        state.recording = Some(graph);
        state.graphs.insert(graph, Addresses::new());
        let pool = Arc::clone(self);
        GraphMemory { pool, graph }
    }

    fn give_back(&self, state: &mut State) {
        for address in std::mem::take(&mut state.free).into_values().flatten() {
            self.source.release(address);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Source> Block<S> {
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl State {
    fn free_bytes(&self) -> usize {
        let bytes = |(bytes, blocks): (&usize, &Vec<u64>)| bytes * blocks.len();
        self.free.iter().map(bytes).sum()
    }

    fn free(&mut self, bytes: usize, address: u64) {
        self.used_bytes -= bytes;
        self.free.entry(bytes).or_default().push(address);
    }
}

impl<S: Source> GraphMemory<S> {
    /// Blocks that are taken from now on belong to no graph.
    pub(crate) fn end_recording(&self) {
        self.pool.state().recording = None;
    }
}

impl<S: Source> Drop for Block<S> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        let (bytes, address) = (self.bytes, self.address);
        let graph = self.graph.and_then(|graph| state.graphs.get_mut(&graph));
        match graph {
            Some(blocks) => blocks.entry(bytes).or_default().push(address),
            None => state.free(bytes, address),
        }
    }
}

impl<S: Source> Drop for GraphMemory<S> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        // A recording that failed has not been ended.
        if state.recording == Some(self.graph) {
            state.recording = None;
        }
        for (bytes, addresses) in state.graphs.remove(&self.graph).unwrap_or_default() {
            for address in addresses {
                state.free(bytes, address);
            }
        }
    }
}

impl<S: Source> Drop for Pool<S> {
    fn drop(&mut self) {
        // Blocks and graphs hold the pool, so none of them is left.
        self.trim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CudaError;

    /// Memory that is only counted: live addresses with their bytes, and how many there have been.
    #[derive(Debug)]
    struct Counted {
        live: Mutex<BTreeMap<u64, usize>>,
        allocations: Mutex<u64>,
        limit: usize,
    }

    impl Source for Arc<Counted> {
        fn allocate(&self, bytes: usize) -> Result<u64, Error> {
            let mut live = self.live.lock().unwrap();
            if live.values().sum::<usize>() + bytes > self.limit {
                return Err(CudaError::Null { argument: "memory" }.into());
            }
            *self.allocations.lock().unwrap() += 1;
            let address = self.allocations() << 32;
            live.insert(address, bytes);
            Ok(address)
        }
        fn release(&self, address: u64) {
            let released = self.live.lock().unwrap().remove(&address);
            assert!(released.is_some(), "{address:#x} is released once");
        }
        fn is_exhausted(&self, error: &Error) -> bool {
            matches!(error, Error::Cuda(CudaError::Null { .. }))
        }
    }

    impl Counted {
        fn allocations(&self) -> u64 {
            *self.allocations.lock().unwrap()
        }
        fn live(&self) -> usize {
            self.live.lock().unwrap().len()
        }
    }

    type Counting = Arc<Pool<Arc<Counted>>>;

    fn pool(limit: usize) -> (Arc<Counted>, Counting) {
        let source = Arc::new(Counted {
            live: Mutex::default(),
            allocations: Mutex::default(),
            limit,
        });
        (Arc::clone(&source), Pool::new(source))
    }

    fn sorted<const N: usize>(mut addresses: [u64; N]) -> [u64; N] {
        addresses.sort_unstable();
        addresses
    }

    /// The blocks of one call, some freed while others are taken.
    fn call(pool: &Counting, rows: usize) -> [u64; 6] {
        let statistics = [4; 4].map(|bytes| pool.allocate(bytes * rows).unwrap());
        let weights = pool.allocate(100 * rows).unwrap().address();
        let sums = pool.allocate(100 * rows + 1).unwrap();
        let [a, b, c, d] = statistics.each_ref().map(Block::address);
        sorted([a, b, c, d, weights, sums.address()])
    }

    #[test]
    fn the_second_call_of_a_shape_takes_the_same_addresses() {
        let (source, pool) = pool(usize::MAX);
        let shapes = [1000, 7, 999, 1001, 4000];
        let [first, ..] = shapes.map(|rows| call(&pool, rows));
        let allocations = source.allocations();
        let [again, ..] = shapes.map(|rows| call(&pool, rows));
        assert_eq!((again, source.allocations()), (first, allocations));
    }

    #[test]
    fn blocks_in_use_at_the_same_time_are_different_memory() {
        let (_, pool) = pool(usize::MAX);
        let blocks = [4096; 8].map(|bytes| pool.allocate(bytes).unwrap());
        let addresses = sorted(blocks.each_ref().map(Block::address));
        assert!(addresses.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(pool.bytes(), (8 * 4096, 0));
    }

    #[test]
    fn rounding_wastes_at_most_an_eighth_and_loses_nothing() {
        let large = [1 << 34, (1 << 34) + 1, usize::MAX];
        for bytes in (512..100_000).step_by(37).chain(large) {
            let taken = rounded(bytes);
            let wasted = taken.checked_sub(bytes);
            assert!(
                wasted.is_some_and(|more| more <= bytes / 8),
                "{bytes}: {taken}"
            );
        }
        assert_eq!(rounded(0), 512);
        assert_eq!(rounded(rounded(1_000_000)), rounded(1_000_000));
    }

    #[test]
    fn trimming_gives_back_what_is_free_and_dropping_the_rest() {
        let (source, pool) = pool(usize::MAX);
        let kept = pool.allocate(1000).unwrap();
        drop(pool.allocate(2000).unwrap());
        pool.trim();
        assert_eq!((source.live(), pool.bytes()), (1, (1024, 0)));
        drop(kept);
        assert_eq!(source.live(), 1);
        drop(pool);
        assert_eq!(source.live(), 0);
    }

    #[test]
    fn memory_that_a_graph_names_serves_nobody_else_while_it_lives() {
        let (source, pool) = pool(usize::MAX);
        let before = pool.allocate(1000).unwrap();
        drop(pool.allocate(1000).unwrap());
        let graph = pool.record();
        let result = pool.allocate(1000).unwrap();
        let workspace = pool.allocate(2000).unwrap().address();
        // A later call of the same recording may have it.
        assert_eq!(pool.allocate(2000).unwrap().address(), workspace);
        graph.end_recording();
        let named = sorted([result.address(), workspace]);
        drop((result, before));
        let taken = [1000, 1000, 2000].map(|bytes| pool.allocate(bytes).unwrap());
        for block in &taken {
            assert!(!named.contains(&block.address()));
        }
        drop(taken);
        pool.trim();
        assert_eq!((source.live(), pool.bytes()), (2, (1024 + 2048, 0)));
        drop(graph);
        let again = [1000, 2000].map(|bytes| pool.allocate(bytes).unwrap().address());
        assert_eq!((sorted(again), pool.bytes()), (named, (0, 1024 + 2048)));
    }

    #[test]
    fn a_block_that_outlives_its_graph_comes_back_like_any_other() {
        let (_, pool) = pool(usize::MAX);
        let graph = pool.record();
        let result = pool.allocate(1000).unwrap();
        // Without an end: the recording failed.
        drop(graph);
        let other = pool.allocate(1000).unwrap();
        assert_ne!(result.address(), other.address());
        drop((result, other));
        assert_eq!(pool.bytes(), (0, 2048));
    }

    #[test]
    fn free_blocks_are_released_when_memory_runs_out() {
        let (source, pool) = pool(4096);
        drop(pool.allocate(3072).unwrap());
        let large = pool.allocate(4096).unwrap();
        assert_eq!(source.live(), 1);
        assert!(pool.allocate(512).is_err());
        drop(large);
        assert!(pool.allocate(4096).is_ok());
    }
}
