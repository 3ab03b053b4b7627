//! The kernels' parameter structures, as kernels/ declares them.

use bytemuck::{Pod, Zeroable};

use super::TensorMap;

/// Structures that lie in memory as C has them.
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        pub(super) struct $name {
            $(pub $field: $kind),*
        }
    )*};
}

params! {
    /// `GlobalRows` of tile/slab.h.
    GlobalRows { data: u64, stride: u64, rows: u32, row_bytes: u32 }

    /// `ContrastView` of tile/contrast.h.
    ContrastView {
        index: u64, anchors: u32, candidates: u32, rule: u32, excludes_self: u32, device_scale: u64,
        scale: f32, padding: u32,
    }

    /// `RowRule` of tile/row_rule.h.
    RuleView { kind: u32, numbers: [f32; 2], negatives: f32, log_mean: u64 }

    /// `GradientParams` of similarity/owned_rows.h.
    GradientParams {
        contrast: ContrastView, owner: GlobalRows, streamed: GlobalRows, dim: u32,
        tiles_per_split: u32, owner_is_anchor: u32, padding: u32, owner_lse2: u64,
        streamed_lse2: u64, far: u64, shift: u64, sums: u64, normalisers: u64,
    }

    /// `WorkGrid` of hopper/tile.h.
    WorkGrid { tiles: u32, splits: u32, group: u32, padding: u32 }

    /// `HopperGradientParams` of hopper/gradient.cu.
    HopperGradientParams {
        owner: TensorMap, streamed: TensorMap, gradient: GradientParams, grid: WorkGrid,
        padding: [u64; 3],
    }

    /// `ScoresParams` of similarity/scores.h.
    ScoresParams {
        contrast: ContrastView, anchors: GlobalRows, candidates: GlobalRows, first_anchor: u32,
        tiles_per_split: u32, bound: u64, unless: u64, rows: u64, columns: u64, steps: u32,
        first_step: u32, summed: u32, first_summed: u32, negatives_lse: u64, row_lse2: u64,
        column_lse2: u64, far: u64, shift: u64, weights: u64, weights_stride: u64, scores: u64,
        anchor_scales: u64, candidate_scales: u64, lists: u64, lengths: u64, k: u32, growth: u32,
    }

    /// `HopperScoresParams` of hopper/scores.h.
    HopperScoresParams {
        anchors: TensorMap, candidates: TensorMap, weights: TensorMap, scores: ScoresParams,
        grid: WorkGrid, padding: [u64; 7],
    }

    /// What both structures of a product have behind its two sides.
    Product {
        rows: u32, columns: u32, summed: u32, slabs_per_split: u32, accumulate: u32, padding: u32,
        sums: u64, shift: u64,
    }

    /// `HopperProductParams` of hopper/product.cu.
    HopperProductParams {
        left: TensorMap, right: TensorMap, product: Product, grid: WorkGrid, padding: u64,
    }

    /// `ProductParams` of similarity/product.cu.
    ProductParams { left: GlobalRows, right: GlobalRows, product: Product }

    /// `Matrix` of tile/numbers.h.
    MatrixView { data: u64, stride: u64, dtype: u32, padding: u32 }

    /// `PositivesParams` of similarity/positives.cu.
    PositivesParams {
        contrast: ContrastView, anchors: MatrixView, candidates: MatrixView, own_keys: MatrixView,
        dim: u32, padding: u32, not_finite: u64, positive: u64, square_norms: u64,
    }

    /// `BoundParams` of similarity/positives.cu.
    BoundParams {
        contrast: ContrastView, square_norms: u64, positive: u64, largest: f32, above: f32,
        bound: u64,
    }

    /// `MeanPositivesParams` of similarity/positives.cu.
    MeanPositivesParams {
        contrast: ContrastView, positive: u64, inverse: f32, padding: u32, log_mean: u64,
    }

    /// `OffsetParams` of similarity/positives.cu.
    OffsetParams { offset: i64, anchors: u32, candidates: u32, index: u64 }

    /// `LabelParams` of similarity/positives.cu.
    LabelParams { anchors: u64, candidates: u64, anchor_count: u32, candidate_count: u32, index: u64 }

    /// `GroupParams` of similarity/positives.cu.
    GroupParams {
        index: u64, anchors: u32, candidates: u32, passes: u32, padding: u32, order: u64,
        other: u64, starts: u64,
    }

    /// `MergeParams` of similarity/rows.cu.
    MergeParams {
        negatives_lse: u64, positive: u64, other_lse: u64, other_positive: u64, rows: u32,
        padding: u32,
    }

    /// `StatisticsParams` of similarity/rows.cu.
    StatisticsParams {
        partial: u64, splits: u32, rows: u32, running: u64, unless: u64, first: u32, last: u32,
        lanes: u32, symmetric: u32, not_finite: u64, far: u64, contrast: ContrastView,
        rule: RuleView, positive: u64, negatives_lse: u64, offset2: u64, negatives_mass: u64,
        positive_mass: u64,
    }

    /// `ShiftParams` of similarity/rows.cu.
    ShiftParams { row_mass: u64, column_mass: u64, rows: u32, columns: u32, shift: u64 }

    /// `FitParams` of similarity/rows.cu.
    FitParams {
        negatives_lse: u64, offset2: u64, square_norms: u64, rows: u32, lowest: f32, range: f32,
        padding: u32, bound: u64, fit: u64, shift: u64,
    }

    /// `FoldParams` of similarity/rows.cu.
    FoldParams {
        partial: u64, offset2: u64, splits: u32, rows: u32, dim: u32, padding: u32,
        anchors: MatrixView, folded: MatrixView, shift: u64, factors: u64,
    }

    /// `FinishParams` of similarity/rows.cu.
    FinishParams {
        sums: u64, normalisers: u64, splits: u32, rows: u32, dim: u32, shifted: u32, warps: u32,
        first_row: u32, factors: u64, contrast: ContrastView, coefficient: f32, of_candidates: u32,
        negatives_mass: u64, row_mass: u64, column_mass: u64, partners: MatrixView, own_keys: u32,
        accumulates: u32, starts: u64, order: u64, rows_of: MatrixView, gradient: MatrixView,
        shift: u64, dots: u64,
    }

    /// `ReduceParams` of similarity/rows.cu.
    ReduceParams {
        row_lse: u64, row_positive: u64, column_lse: u64, column_positive: u64, dots: u64,
        rows: u32, columns: u32, row_weight: f64, dot_weight: f64, scale_weight: f64,
        rule: RuleView, contrast: ContrastView, result: u64,
    }

    /// `SelectParams` of similarity/top_k.cu.
    SelectParams {
        scores: u64, rows: u32, candidates: u32, k: u32, first_row: u32, excludes_self: u32,
        padding: u32, indices: u64, best: u64,
    }

    /// `SelectListedParams` of similarity/top_k.cu.
    SelectListedParams {
        lists: u64, lengths: u64, rows: u32, splits: u32, k: u32, first_row: u32,
        excludes_self: u32, lanes_log2: u32, indices: u64, best: u64,
    }

    /// `NormalizeParams` of rowwise/normalize.cu.
    NormalizeParams {
        x: MatrixView, y: MatrixView, norms: u64, rows: u32, dim: u32, epsilon: f32, warp_rows: u32,
    }

    /// `QuantizeParams` of rowwise/quantize.cu.
    QuantizeParams {
        x: MatrixView, codes: u64, scales: u64, rows: u32, dim: u32, row_bytes: u32,
        scaled_rows: u32, warp_rows: u32, padding: u32,
    }

    /// `NormalizeBackwardParams` of rowwise/normalize.cu.
    NormalizeBackwardParams {
        y: MatrixView, dy: MatrixView, dx: MatrixView, norms: u64, rows: u32, dim: u32,
        epsilon: f32, short_norm: f32, warp_rows: u32, padding: u32,
    }

    /// `MomentumTensor` of rowwise/state.cu.
    MomentumEntry { query: u64, key: u64, shadow: u64, length: u64, first_block: u64 }

    /// `MomentumParams` of rowwise/state.cu.
    MomentumParams {
        tensors: u64, count: u32, dtype: u32, device_momentum: u64, momentum: f32, padding: u32,
    }

    /// `CopyRowsParams` of rowwise/state.cu.
    CopyRowsParams {
        from: MatrixView, to: MatrixView, rows: u32, from_columns: u32, to_columns: u32,
        first_from: u32, first_to: u32, capacity: u32, cursor: u64,
    }

    /// `CursorParams` of rowwise/state.cu.
    CursorParams { cursor: u64, rows: u32, capacity: u32 }
}

impl WorkGrid {
    /// All row tiles in one group.
    pub fn new(tiles: usize, splits: u32) -> Self {
        Self {
            tiles: tiles as u32,
            splits,
            group: tiles as u32,
            padding: 0,
        }
    }
}
