//! Which kernels serve a call: the portable ones, or those for sm_90a (kernels/hopper).

use bytemuck::Zeroable;

use super::params::{
    HopperProductParams, HopperScoresParams, Matrix, ProductParams, ScoresParams, TensorMap,
    WorkGrid,
};
use super::prepared::Prepared;
use super::similarity::{Similarity, TILE};
use super::{Arithmetic, Device};
use crate::error::Error;

/// Threads and shared memory of a block: `ScoresTile` of similarity/scores.h.
const SCORES_THREADS: u32 = 256;
const SCORES_SHARED: u32 = 3 * 2 * 128 * 128;
/// `Product` of similarity/product.cu.
const PRODUCT_SHARED: u32 = 3 * 2 * 128 * 128;

/// Threads of every block of hopper/: two warpgroups that multiply and one that copies.
pub(super) const HOPPER_THREADS: u32 = 384;
/// `HopperTile` of hopper/scores.h: slabs, rooms for column sums or boxes of weights, column terms, mbarriers.
const HOPPER_SCORES_SHARED: u32 = 4 * (128 + 256) * 128 + 8 * 2 * 16 * 128 + 2 * 256 * 4 + 14 * 8;
/// `ProductTile` of hopper/product.cu.
const HOPPER_PRODUCT_SHARED: u32 = 4 * (128 + 256) * 128 + 8 * 8;
/// Up to this length the anchors' rows stay in shared memory, so that a tile costs the traffic of its
/// candidates only.
const RESIDENT_DIM_BYTES: u32 = 4 * 128;

/// Clusters' row tiles of a group where the anchors of all are more. g clusters read as many tiles of anchors again and
/// again, the splits beside them C/g tiles of candidates, two at a time: of 66 clusters least where g² = 2C.
const GROUP: usize = 11;

/// Blocks of a cluster, of the kernels that run in clusters: `PAIR` of hopper/tile.h.
const PAIR: u32 = 2;

/// How a pass of the tile loop is cut up: its splits, each of so many tiles, and clusters' row tiles of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub splits: u32,
    pub per_split: u32,
    group: u32,
}

impl WorkGrid {
    /// All row tiles in one group.
    pub fn new(tiles: usize, splits: u32) -> Self {
        Self {
            tiles: tiles as u32,
            splits,
            group: tiles as u32,
        }
    }
}

impl Cut {
    /// The work over `tiles` row tiles.
    pub fn grid(&self, tiles: usize) -> WorkGrid {
        WorkGrid {
            group: self.group,
            ..WorkGrid::new(tiles, self.splits)
        }
    }
}

impl<D: Device> Similarity<'_, D> {
    /// A pass over `rows` of the anchors against all candidates. Clusters that run together read their anchors again
    /// for every tile: where these take more than half of the L2 cache, which has candidates to hold, too, fewer row
    /// tiles run beside more splits.
    pub(super) fn cut(
        &self,
        arithmetic: Arithmetic,
        anchors: Matrix,
        rows: usize,
        candidates: usize,
    ) -> Cut {
        let tiles = candidates.div_ceil(self.tile_columns(arithmetic));
        let row_tiles = self.row_tiles(arithmetic, rows);
        let row_bytes = anchors.row_bytes;
        let clusters = (self.device.hardware().multiprocessors / PAIR).max(1) as usize;
        let together = row_tiles.div_ceil(PAIR as usize).min(clusters);
        let cached = together * PAIR as usize * TILE * row_bytes as usize;
        let streams_anchors = self.is_hopper(arithmetic) && row_bytes > RESIDENT_DIM_BYTES;
        let (group, least) =
            match streams_anchors && cached > self.device.hardware().cache_bytes / 2 {
                true => (GROUP, clusters.div_ceil(GROUP)),
                false => (row_tiles, 1),
            };
        let (splits, per_split) = self.split_from(least, row_tiles, tiles, 1);
        Cut {
            splits,
            per_split,
            group: group as u32,
        }
    }

    /// Whether the kernels for sm_90a serve: they multiply numbers of 16 and 8 bits.
    pub(super) fn is_hopper(&self, arithmetic: Arithmetic) -> bool {
        let narrow = arithmetic.bytes() <= 2;
        narrow && !self.portable && self.device.hardware().warpgroups
    }

    /// Columns of a tile: candidates of one of logits, numbers of a row of a product.
    pub(super) fn tile_columns(&self, arithmetic: Arithmetic) -> usize {
        if self.is_hopper(arithmetic) { 256 } else { 128 }
    }

    /// Tiles of 128 rows, of logits or of a product. On sm_90a whole clusters of two: the second tile
    /// of the last one may lie past the end.
    pub(super) fn row_tiles(&self, arithmetic: Arithmetic, rows: usize) -> usize {
        let cluster = if self.is_hopper(arithmetic) { 2 } else { 1 };
        rows.div_ceil(128).next_multiple_of(cluster)
    }

    /// Whether dq and dk are made of the same stored weights where fused kernels could hold them: 8NMD in
    /// place of 10NMD for a loss of both directions. Above D = 64 products are what a fused pass waits for,
    /// so that two of them less are worth the bytes; up to there it is exponentials, two a logit and pass.
    pub(super) fn shares_weights(&self, prepared: &Prepared<'_, D>) -> bool {
        prepared.contrast().has_columns()
            && prepared.shape.dim > 64
            && self.is_hopper(prepared.arithmetic)
    }

    /// Launches a kernel for sm_90a over tiles × parts: as many blocks as run at a time, one a
    /// multiprocessor, which take the pieces one after another (`Scheduler` of hopper/tile.h).
    pub(super) fn launch_persistent<P: bytemuck::Pod>(
        &self,
        kernel: &str,
        cluster: u32,
        grid: WorkGrid,
        shared_bytes: u32,
        params: &P,
    ) -> Result<(), Error> {
        let places = (self.device.hardware().multiprocessors / cluster).max(1) * cluster;
        let blocks = (grid.tiles * grid.splits).min(places);
        self.device
            .start(kernel, [blocks, 1, 1], HOPPER_THREADS, shared_bytes, params)
    }

    /// Launches a kernel of the tile loop: "statistics", "exponentials", "weights", "scores" or, on sm_90a, "best".
    pub(super) fn scores(
        &self,
        kernel: &str,
        arithmetic: Arithmetic,
        grid: WorkGrid,
        params: &ScoresParams,
    ) -> Result<(), Error> {
        if !self.is_hopper(arithmetic) {
            let name = format!("{kernel}_{arithmetic}");
            let blocks = [grid.tiles, grid.splits, 1];
            return self
                .device
                .start(&name, blocks, SCORES_THREADS, SCORES_SHARED, params);
        }
        let mut name = format!("hopper_{kernel}_{arithmetic}");
        if params.anchors.row_bytes <= RESIDENT_DIM_BYTES {
            name += &format!("_{}", RESIDENT_DIM_BYTES as usize / arithmetic.bytes());
        }
        let params = HopperScoresParams {
            anchors: self.boxes(&params.anchors, 128)?,
            candidates: self.boxes(&params.candidates, 128)?,
            // Of a warp's rows; nothing for kernels that store none.
            weights: match params.weights.data {
                0 => TensorMap::zeroed(),
                _ => self.boxes(&params.weights, 16)?,
            },
            scores: *params,
            grid,
            padding: [0; 5],
        };
        self.launch_persistent(&name, PAIR, grid, HOPPER_SCORES_SHARED, &params)
    }

    /// The same over all of the anchors, cut up like this.
    pub(super) fn pass(
        &self,
        kernel: &str,
        arithmetic: Arithmetic,
        cut: Cut,
        params: ScoresParams,
    ) -> Result<(), Error> {
        let tiles = self.row_tiles(arithmetic, params.anchors.rows as usize);
        let params = ScoresParams {
            tiles_per_split: cut.per_split,
            ..params
        };
        self.scores(kernel, arithmetic, cut.grid(tiles), &params)
    }

    /// Launches a product of a chunk of weights: tiles are row tiles × column tiles.
    pub(super) fn product(
        &self,
        transposed: bool,
        arithmetic: Arithmetic,
        grid: WorkGrid,
        params: &ProductParams,
    ) -> Result<(), Error> {
        let (side, left_rows) = if transposed {
            ("_transposed", 64)
        } else {
            ("", 128)
        };
        let name = format!("product{side}_{arithmetic}");
        if !self.is_hopper(arithmetic) {
            let blocks = [grid.tiles, grid.splits, 1];
            return self
                .device
                .start(&name, blocks, 256, PRODUCT_SHARED, params);
        }
        let params = HopperProductParams {
            left: self.boxes(&params.left, left_rows)?,
            right: self.boxes(&params.right, 64)?,
            product: *params,
            grid,
            padding: [0; 15],
        };
        let name = format!("hopper_{name}");
        self.launch_persistent(&name, PAIR, grid, HOPPER_PRODUCT_SHARED, &params)
    }

    /// The matrix as boxes of `box_rows` rows.
    pub(super) fn boxes(&self, matrix: &Matrix, box_rows: u32) -> Result<TensorMap, Error> {
        // Coordinates of boxes have a sign.
        if matrix.rows > i32::MAX as u32 - 1024 {
            return Err(Error::Scalar {
                argument: "rows",
                given: f64::from(matrix.rows),
                allowed: "at most 2^31 - 1025 rows for the kernels of sm_90a",
            });
        }
        self.device.tensor_map(matrix, box_rows)
    }
}
