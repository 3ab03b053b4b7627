//! Selects a call's kernels, portable or for sm_90a (kernels/hopper), and launches them over work tiles.

use bytemuck::Zeroable;

use super::kernels::{self, Family, Kernel};
use super::params::{
    HopperProductParams, HopperScoresParams, Matrix, ProductParams, ScoresParams, TensorMap,
    WorkGrid,
};
use super::prepared::Prepared;
use super::similarity::{Similarity, TILE};
use super::{Arithmetic, Device};
use crate::error::Error;

// The passes of the tile loop. `BEST` exists for sm_90a alone.
pub(super) const STATISTICS: Family = [kernels::STATISTICS, kernels::HOPPER_STATISTICS];
pub(super) const EXPONENTIALS: Family = [kernels::EXPONENTIALS, kernels::HOPPER_EXPONENTIALS];
pub(super) const WEIGHTS: Family = [kernels::WEIGHTS, kernels::HOPPER_WEIGHTS];
pub(super) const SCORES: Family = [kernels::SCORES, kernels::HOPPER_SCORES];
pub(super) const BEST: Family = [&[], kernels::HOPPER_BEST];

/// Clusters whose row tiles form a group of `WorkGrid`, where L2 does not hold the anchors of all. Of C clusters that
/// run together, a group of g keeps g tiles of anchors in L2, and C/g splits keep two tiles of candidates each. The sum
/// g + 2C/g is least at g = √(2C): about 11 for C = 66, an H100.
const GROUP: usize = 11;

/// How a pass of the tile loop is divided: its splits, the tiles of a split, and the clusters of a group ([`GROUP`]).
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
    /// The work tiles of `tiles` row tiles.
    pub fn grid(&self, tiles: usize) -> WorkGrid {
        WorkGrid {
            group: self.group,
            ..WorkGrid::new(tiles, self.splits)
        }
    }
}

impl<D: Device> Similarity<'_, D> {
    /// The cut of a pass of `rows` anchors against all candidates. Where anchors do not stay in shared memory, clusters
    /// read them again for every tile. If the anchors of all clusters that run together take more than half of the L2
    /// cache, fewer row tiles run together, with more splits.
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

    /// Whether the kernels for sm_90a serve: they multiply 16-bit and 8-bit types.
    pub(super) fn is_hopper(&self, arithmetic: Arithmetic) -> bool {
        let narrow = arithmetic.bytes() <= 2;
        narrow && !self.portable && self.device.hardware().warpgroups
    }

    /// A kernel that has the tile of all tile loops and products of the arithmetic.
    fn tile(&self, arithmetic: Arithmetic) -> &'static Kernel {
        &STATISTICS[usize::from(self.is_hopper(arithmetic))][0]
    }

    /// Columns of a tile: candidates in a tile of logits, columns of D in a tile of a product.
    pub(super) fn tile_columns(&self, arithmetic: Arithmetic) -> usize {
        self.tile(arithmetic).columns
    }

    /// Row tiles of logits or of a product, whole clusters on sm_90a: the last cluster's second tile may lie past the
    /// last row.
    pub(super) fn row_tiles(&self, arithmetic: Arithmetic, rows: usize) -> usize {
        let tile = self.tile(arithmetic);
        let tiles = rows.div_ceil(tile.rows);
        tiles.next_multiple_of(tile.cluster as usize)
    }

    /// The kernel of a family for rows of `dim` elements; an error where the family has none for such long rows.
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

    /// Whether a loss of both directions stores weights for dq and dk (8NMD FLOPs) although fused kernels (10NMD) could
    /// serve. Above D = 64 products limit a fused pass, so one product less is worth the traffic. Up to D = 64
    /// exponentials limit it.
    pub(super) fn shares_weights(&self, prepared: &Prepared<'_, D>) -> bool {
        prepared.contrast().has_columns()
            && prepared.shape.dim > 64
            && self.is_hopper(prepared.arithmetic)
    }

    /// Launches a kernel over tiles × splits. A portable kernel takes `params` and has a block for each work tile. One
    /// for sm_90a takes the parameters of `hopper` and has as many blocks as run at a time; each processes work tiles
    /// one after another (`Scheduler` of kernels/hopper/tile.h).
    pub(super) fn launch_tiles<P: bytemuck::Pod, H: bytemuck::Pod>(
        &self,
        kernel: &Kernel,
        arithmetic: Arithmetic,
        grid: WorkGrid,
        params: &P,
        hopper: impl FnOnce() -> Result<H, Error>,
    ) -> Result<(), Error> {
        if !self.is_hopper(arithmetic) {
            let blocks = [grid.tiles, grid.splits, 1];
            return self.device.start(kernel, blocks, params);
        }
        let cluster = kernel.cluster;
        let places = (self.device.hardware().sms / cluster).max(1) * cluster;
        let blocks = (grid.tiles * grid.splits).min(places);
        self.device.start(kernel, [blocks, 1, 1], &hopper()?)
    }

    /// Launches a pass of the tile loop over `grid`.
    pub(super) fn scores(
        &self,
        family: Family,
        arithmetic: Arithmetic,
        grid: WorkGrid,
        params: &ScoresParams,
    ) -> Result<(), Error> {
        let elements = params.anchors.row_bytes as usize / arithmetic.bytes();
        let kernel = self.kernel(family, arithmetic, elements)?;
        self.launch_tiles(kernel, arithmetic, grid, params, || {
            let [anchors, candidates, weights] = self.maps(kernel, params)?;
            Ok(HopperScoresParams {
                anchors,
                candidates,
                weights,
                scores: *params,
                grid,
                padding: [0; 5],
            })
        })
    }

    /// The tensor maps of anchors, candidates and weights for a kernel of sm_90a.
    pub(super) fn maps(
        &self,
        kernel: &Kernel,
        params: &ScoresParams,
    ) -> Result<[TensorMap; 3], Error> {
        // Each block of a cluster copies its share of a tile of candidates.
        let share = kernel.columns / kernel.cluster as usize;
        Ok([
            self.boxes(&params.anchors, kernel.rows)?,
            self.boxes(&params.candidates, share)?,
            // Boxes of a warp's rows, for kernels that store weights.
            match params.weights.data {
                0 => TensorMap::zeroed(),
                _ => self.boxes(&params.weights, kernels::WEIGHTS_BOX_ROWS)?,
            },
        ])
    }

    /// Launches a pass of the tile loop over all anchors of `params`, divided by `cut`.
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

    /// Launches W·K (dq), or Wᵀ·Q (dk, `transposed`), of a chunk. The tiles of `grid` are row tiles × column tiles.
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
        let slab = kernels::SLAB_ELEMENTS;
        let left_rows = if transposed { slab } else { kernel.rows };
        self.launch_tiles(kernel, arithmetic, grid, params, || {
            Ok(HopperProductParams {
                left: self.boxes(&params.left, left_rows)?,
                right: self.boxes(&params.right, slab)?,
                product: *params,
                grid,
                padding: [0; 15],
            })
        })
    }

    /// The tensor map that copies boxes of `box_rows` rows of the matrix.
    pub(super) fn boxes(&self, matrix: &Matrix, box_rows: usize) -> Result<TensorMap, Error> {
        // Coordinates of TMA boxes are signed.
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
