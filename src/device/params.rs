//! The kernels' parameter structures, as kernels/ declares them.

use bytemuck::{Pod, Zeroable};

use super::TensorMap;

/// `GlobalRows` of tile/slab.h.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GlobalRows {
    pub data: u64,
    pub stride: u64,
    pub rows: u32,
    pub row_bytes: u32,
}

/// `ContrastView` of tile/contrast.h.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ContrastView {
    pub index: u64,
    pub anchors: u32,
    pub candidates: u32,
    pub rule: u32,
    pub excludes_self: u32,
    pub device_scale: u64,
    pub scale: f32,
    pub padding: u32,
}

/// `RowRule` of tile/row_rule.h.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RuleView {
    pub kind: u32,
    pub numbers: [f32; 2],
    pub negatives: f32,
    pub log_mean: u64,
}

/// `GradientParams` of similarity/owned_rows.h.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GradientParams {
    pub contrast: ContrastView,
    pub owner: GlobalRows,
    pub streamed: GlobalRows,
    pub dim: u32,
    pub tiles_per_split: u32,
    pub owner_is_anchor: u32,
    pub padding: u32,
    pub owner_lse2: u64,
    pub streamed_lse2: u64,
    pub far: u64,
    pub shift: u64,
    pub sums: u64,
    pub normalisers: u64,
}

/// `WorkGrid` of hopper/tile.h.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct WorkGrid {
    pub tiles: u32,
    pub parts: u32,
    pub group: u32,
    pub padding: u32,
}

impl WorkGrid {
    /// All row tiles in one group.
    pub fn new(tiles: usize, parts: u32) -> Self {
        Self {
            tiles: tiles as u32,
            parts,
            group: tiles as u32,
            padding: 0,
        }
    }
}

/// `HopperGradientParams` of hopper/gradient.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct HopperGradientParams {
    pub owner: TensorMap,
    pub streamed: TensorMap,
    pub gradient: GradientParams,
    pub grid: WorkGrid,
    pub padding: [u64; 3],
}

/// `ScoresParams` of similarity/scores.h.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ScoresParams {
    pub contrast: ContrastView,
    pub anchors: GlobalRows,
    pub candidates: GlobalRows,
    pub first_anchor: u32,
    pub tiles_per_split: u32,
    pub bound: u64,
    pub unless: u64,
    pub rows: u64,
    pub columns: u64,
    pub steps: u32,
    pub first_step: u32,
    pub summed: u32,
    pub first_summed: u32,
    pub negatives_lse: u64,
    pub row_lse2: u64,
    pub column_lse2: u64,
    pub far: u64,
    pub shift: u64,
    pub weights: u64,
    pub weights_stride: u64,
    pub scores: u64,
    pub anchor_scales: u64,
    pub candidate_scales: u64,
    pub lists: u64,
    pub lengths: u64,
    pub k: u32,
    pub growth: u32,
}

/// `HopperScoresParams` of hopper/scores.h.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct HopperScoresParams {
    pub anchors: TensorMap,
    pub candidates: TensorMap,
    pub weights: TensorMap,
    pub scores: ScoresParams,
    pub grid: WorkGrid,
    pub padding: [u64; 7],
}

/// `HopperProductParams` of hopper/product.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct HopperProductParams {
    pub left: TensorMap,
    pub right: TensorMap,
    pub rows: u32,
    pub columns: u32,
    pub summed: u32,
    pub slabs_per_split: u32,
    pub accumulate: u32,
    pub padding: u32,
    pub sums: u64,
    pub shift: u64,
    pub grid: WorkGrid,
    pub padding_2: u64,
}

/// `ProductParams` of similarity/product.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ProductParams {
    pub left: GlobalRows,
    pub right: GlobalRows,
    pub rows: u32,
    pub columns: u32,
    pub summed: u32,
    pub slabs_per_split: u32,
    pub accumulate: u32,
    pub padding: u32,
    pub sums: u64,
    pub shift: u64,
}

/// `Matrix` of tile/numbers.h.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MatrixView {
    pub data: u64,
    pub stride: u64,
    pub dtype: u32,
    pub padding: u32,
}

/// `PositivesParams` of similarity/positives.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct PositivesParams {
    pub contrast: ContrastView,
    pub anchors: MatrixView,
    pub candidates: MatrixView,
    pub own_keys: MatrixView,
    pub dim: u32,
    pub padding: u32,
    pub not_finite: u64,
    pub positive: u64,
    pub square_norms: u64,
}

/// `BoundParams` of similarity/positives.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct BoundParams {
    pub contrast: ContrastView,
    pub square_norms: u64,
    pub positive: u64,
    pub largest: f32,
    pub above: f32,
    pub bound: u64,
}

/// `MeanPositivesParams` of similarity/positives.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MeanPositivesParams {
    pub contrast: ContrastView,
    pub positive: u64,
    pub inverse: f32,
    pub padding: u32,
    pub log_mean: u64,
}

/// `OffsetParams` of similarity/positives.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct OffsetParams {
    pub offset: i64,
    pub anchors: u32,
    pub candidates: u32,
    pub index: u64,
}

/// `GroupParams` of similarity/positives.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GroupParams {
    pub index: u64,
    pub anchors: u32,
    pub candidates: u32,
    pub passes: u32,
    pub padding: u32,
    pub order: u64,
    pub other: u64,
    pub starts: u64,
}

/// `MergeParams` of similarity/rows.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MergeParams {
    pub negatives_lse: u64,
    pub positive: u64,
    pub other_lse: u64,
    pub other_positive: u64,
    pub rows: u32,
    pub padding: u32,
}

/// `StatisticsParams` of similarity/rows.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct StatisticsParams {
    pub partial: u64,
    pub parts: u32,
    pub rows: u32,
    pub running: u64,
    pub unless: u64,
    pub first: u32,
    pub last: u32,
    pub lanes: u32,
    pub symmetric: u32,
    pub not_finite: u64,
    pub far: u64,
    pub contrast: ContrastView,
    pub rule: RuleView,
    pub positive: u64,
    pub negatives_lse: u64,
    pub offset2: u64,
    pub negatives_mass: u64,
    pub positive_mass: u64,
}

/// `ShiftParams` of similarity/rows.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ShiftParams {
    pub row_mass: u64,
    pub column_mass: u64,
    pub rows: u32,
    pub columns: u32,
    pub shift: u64,
}

/// `FitParams` of similarity/rows.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FitParams {
    pub negatives_lse: u64,
    pub offset2: u64,
    pub square_norms: u64,
    pub rows: u32,
    pub lowest: f32,
    pub range: f32,
    pub padding: u32,
    pub bound: u64,
    pub fit: u64,
    pub shift: u64,
}

/// `FoldParams` of similarity/rows.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FoldParams {
    pub partial: u64,
    pub offset2: u64,
    pub parts: u32,
    pub rows: u32,
    pub dim: u32,
    pub padding: u32,
    pub anchors: MatrixView,
    pub folded: MatrixView,
    pub shift: u64,
    pub factors: u64,
}

/// `FinishParams` of similarity/rows.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FinishParams {
    pub sums: u64,
    pub normalisers: u64,
    pub parts: u32,
    pub rows: u32,
    pub dim: u32,
    pub shifted: u32,
    pub warps: u32,
    pub first_row: u32,
    pub factors: u64,
    pub contrast: ContrastView,
    pub coefficient: f32,
    pub of_candidates: u32,
    pub negatives_mass: u64,
    pub row_mass: u64,
    pub column_mass: u64,
    pub partners: MatrixView,
    pub own_keys: u32,
    pub accumulates: u32,
    pub starts: u64,
    pub order: u64,
    pub rows_of: MatrixView,
    pub gradient: MatrixView,
    pub shift: u64,
    pub dots: u64,
}

/// `ReduceParams` of similarity/rows.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ReduceParams {
    pub row_lse: u64,
    pub row_positive: u64,
    pub column_lse: u64,
    pub column_positive: u64,
    pub dots: u64,
    pub rows: u32,
    pub columns: u32,
    pub row_weight: f64,
    pub dot_weight: f64,
    pub scale_weight: f64,
    pub rule: RuleView,
    pub contrast: ContrastView,
    pub result: u64,
}

/// `SelectParams` of similarity/top_k.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SelectParams {
    pub scores: u64,
    pub rows: u32,
    pub candidates: u32,
    pub k: u32,
    pub first_row: u32,
    pub excludes_self: u32,
    pub padding: u32,
    pub indices: u64,
    pub best: u64,
}

/// `SelectListedParams` of similarity/top_k.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SelectListedParams {
    pub lists: u64,
    pub lengths: u64,
    pub rows: u32,
    pub splits: u32,
    pub k: u32,
    pub first_row: u32,
    pub excludes_self: u32,
    pub lanes_log2: u32,
    pub indices: u64,
    pub best: u64,
}

/// `NormalizeParams` of rowwise/normalize.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct NormalizeParams {
    pub x: MatrixView,
    pub y: MatrixView,
    pub norms: u64,
    pub rows: u32,
    pub dim: u32,
    pub epsilon: f32,
    pub warp_rows: u32,
}

/// `QuantizeParams` of rowwise/quantize.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct QuantizeParams {
    pub x: MatrixView,
    pub codes: u64,
    pub scales: u64,
    pub rows: u32,
    pub dim: u32,
    pub row_bytes: u32,
    pub scaled_rows: u32,
    pub warp_rows: u32,
    pub padding: u32,
}

/// `NormalizeBackwardParams` of rowwise/normalize.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct NormalizeBackwardParams {
    pub y: MatrixView,
    pub dy: MatrixView,
    pub dx: MatrixView,
    pub norms: u64,
    pub rows: u32,
    pub dim: u32,
    pub epsilon: f32,
    pub short_norm: f32,
    pub warp_rows: u32,
    pub padding: u32,
}

/// `MomentumTensor` of rowwise/state.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MomentumEntry {
    pub query: u64,
    pub key: u64,
    pub shadow: u64,
    pub length: u64,
    pub first_block: u64,
}

/// `MomentumParams` of rowwise/state.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MomentumParams {
    pub tensors: u64,
    pub count: u32,
    pub dtype: u32,
    pub device_momentum: u64,
    pub momentum: f32,
    pub padding: u32,
}

/// `CopyRowsParams` of rowwise/state.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CopyRowsParams {
    pub from: MatrixView,
    pub to: MatrixView,
    pub rows: u32,
    pub from_columns: u32,
    pub to_columns: u32,
    pub first_from: u32,
    pub first_to: u32,
    pub capacity: u32,
    pub cursor: u64,
}

/// `CursorParams` of rowwise/state.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CursorParams {
    pub cursor: u64,
    pub rows: u32,
    pub capacity: u32,
}
