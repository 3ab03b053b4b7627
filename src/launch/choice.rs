//! Which kernels serve a call: the portable ones, or those for sm_90a (kernels/hopper).

use bytemuck::Zeroable;

use super::kernels::{self, Kernel};
use super::params::{
    HopperProductParams, HopperScoresParams, Matrix, ProductParams, ScoresParams, TensorMap,
    WorkGrid,
};
use super::prepared::Prepared;
use super::similarity::{Similarity, TILE};
use super::{Arithmetic, Device};
use crate::error::Error;

/// The kernels of one purpose: portable, and for sm_90a.
pub(super) type Family = [&'static [Kernel]; 2];

/// The passes of the tile loop; the last is for sm_90a alone.
pub(super) const STATISTICS: Family = [kernels::STATISTICS, kernels::HOPPER_STATISTICS];
pub(super) const EXPONENTIALS: Family = [kernels::EXPONENTIALS, kernels::HOPPER_EXPONENTIALS];
pub(super) const WEIGHTS: Family = [kernels::WEIGHTS, kernels::HOPPER_WEIGHTS];
pub(super) const SCORES: Family = [kernels::SCORES, kernels::HOPPER_SCORES];
pub(super) const BEST: Family = [&[], kernels::HOPPER_BEST];

/// Clusters' row tiles of a group where the anchors of all are more. g clusters read as many tiles of anchors again and
/// again, the splits beside them C/g tiles of candidates, two at a time: of 66 clusters least where g² = 2C.
const GROUP: usize = 11;

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
        let cluster = self.tile(arithmetic).cluster as usize;
        let clusters = (self.device.hardware().sms as usize / cluster).max(1);
        let together = row_tiles.div_ceil(cluster).min(clusters);
        let cached = together * cluster * TILE * row_bytes as usize;
        let elements = row_bytes as usize / arithmetic.bytes();
        let streams_anchors = self.is_hopper(arithmetic)
            && self
                .kernel(STATISTICS, arithmetic, elements)
                .is_ok_and(|kernel| kernel.dim == 0);
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

    /// A kernel with the tile of all tile loops and products.
    fn tile(&self, arithmetic: Arithmetic) -> &'static Kernel {
        &STATISTICS[usize::from(self.is_hopper(arithmetic))][0]
    }

    /// Columns of a tile: candidates of one of logits, elements of a row of a product.
    pub(super) fn tile_columns(&self, arithmetic: Arithmetic) -> usize {
        self.tile(arithmetic).columns
    }

    /// Row tiles, of logits or of a product. On sm_90a whole clusters: the second tile of the last one may lie past
    /// the end.
    pub(super) fn row_tiles(&self, arithmetic: Arithmetic, rows: usize) -> usize {
        let tile = self.tile(arithmetic);
        let tiles = rows.div_ceil(tile.rows);
        tiles.next_multiple_of(tile.cluster as usize)
    }

    /// The kernel of a family for rows of `dim` elements; an error where they are too long for all of them.
    pub(super) fn kernel(
        &self,
        family: Family,
        arithmetic: Arithmetic,
        dim: usize,
    ) -> Result<&'static Kernel, Error> {
        let family = family[usize::from(self.is_hopper(arithmetic))];
        kernels::find(family, arithmetic, dim).ok_or_else(|| Error::Kernel {
            kernel: family.first().map_or("", |kernel| kernel.name).into(),
            reason: format!("there is none for {arithmetic} and rows of {dim} elements"),
        })
    }

    /// Whether dq and dk are made of the same stored weights where fused kernels could hold them: 8NMD in
    /// place of 10NMD for a loss of both directions. Above D = 64 products are what a fused pass waits for,
    /// so that two of them less are worth the bytes; up to there it is exponentials, two a logit and pass.
    pub(super) fn shares_weights(&self, prepared: &Prepared<'_, D>) -> bool {
        prepared.contrast().has_columns()
            && prepared.shape.dim > 64
            && self.is_hopper(prepared.arithmetic)
    }

    /// Launches a kernel for sm_90a over tiles × splits. As many blocks as run at a time, one an SM, take the work tiles
    /// one after another (`Scheduler` of hopper/tile.h).
    pub(super) fn launch_persistent<P: bytemuck::Pod>(
        &self,
        kernel: &Kernel,
        grid: WorkGrid,
        params: &P,
    ) -> Result<(), Error> {
        let cluster = kernel.cluster;
        let places = (self.device.hardware().sms / cluster).max(1) * cluster;
        let blocks = (grid.tiles * grid.splits).min(places);
        self.device.start(kernel, [blocks, 1, 1], params)
    }

    /// Launches a kernel of the tile loop.
    pub(super) fn scores(
        &self,
        family: Family,
        arithmetic: Arithmetic,
        grid: WorkGrid,
        params: &ScoresParams,
    ) -> Result<(), Error> {
        let elements = params.anchors.row_bytes as usize / arithmetic.bytes();
        let kernel = self.kernel(family, arithmetic, elements)?;
        if !self.is_hopper(arithmetic) {
            let blocks = [grid.tiles, grid.splits, 1];
            return self.device.start(kernel, blocks, params);
        }
        let params = HopperScoresParams {
            anchors: self.boxes(&params.anchors, kernel.rows)?,
            // Each block of a cluster copies its share of a tile.
            candidates: self.boxes(&params.candidates, kernel.columns / kernel.cluster as usize)?,
            // Of a warp's rows; nothing for kernels that store none.
            weights: match params.weights.data {
                0 => TensorMap::zeroed(),
                _ => self.boxes(&params.weights, kernels::WEIGHTS_BOX_ROWS)?,
            },
            scores: *params,
            grid,
            padding: [0; 5],
        };
        self.launch_persistent(kernel, grid, &params)
    }

    /// The same over all of the anchors, cut up like this.
    pub(super) fn pass(
        &self,
        family: Family,
        arithmetic: Arithmetic,
        cut: Cut,
        params: ScoresParams,
    ) -> Result<(), Error> {
        let tiles = self.row_tiles(arithmetic, params.anchors.rows as usize);
        let params = ScoresParams {
            tiles_per_split: cut.per_split,
            ..params
        };
        self.scores(family, arithmetic, cut.grid(tiles), &params)
    }

    /// Launches a product of a chunk of weights: tiles are row tiles × column tiles.
    pub(super) fn product(
        &self,
        transposed: bool,
        arithmetic: Arithmetic,
        grid: WorkGrid,
        params: &ProductParams,
    ) -> Result<(), Error> {
        let family = match transposed {
            true => [
                kernels::PRODUCT_TRANSPOSED,
                kernels::HOPPER_PRODUCT_TRANSPOSED,
            ],
            false => [kernels::PRODUCT, kernels::HOPPER_PRODUCT],
        };
        let kernel = self.kernel(family, arithmetic, 0)?;
        if !self.is_hopper(arithmetic) {
            let blocks = [grid.tiles, grid.splits, 1];
            return self.device.start(kernel, blocks, params);
        }
        let slab = kernels::SLAB_ELEMENTS;
        let left_rows = if transposed { slab } else { kernel.rows };
        let params = HopperProductParams {
            left: self.boxes(&params.left, left_rows)?,
            right: self.boxes(&params.right, slab)?,
            product: *params,
            grid,
            padding: [0; 15],
        };
        self.launch_persistent(kernel, grid, &params)
    }

    /// The matrix as boxes of `box_rows` rows.
    pub(super) fn boxes(&self, matrix: &Matrix, box_rows: usize) -> Result<TensorMap, Error> {
        // Coordinates of boxes have a sign.
        if matrix.rows > i32::MAX as u32 - 1024 {
            return Err(Error::Scalar {
                argument: "rows",
                given: f64::from(matrix.rows),
                allowed: "at most 2^31 - 1025 rows for the kernels of sm_90a",
            });
        }
        self.device.tensor_map(matrix, box_rows as u32)
    }
}
