//! The kernels' parameter structures. The build fails where a kernel's own declaration differs in size, in the offset
//! of a field or in the value of a code (build/layouts.rs).

use bytemuck::{Pod, Zeroable};

// `for_build!` is of whoever includes this file: build.rs keeps its items, the crate drops them.
for_build! {
    /// A structure and the offsets of its fields.
    pub struct Layout {
        pub name: &'static str,
        /// The file under kernels/ that declares it.
        pub header: &'static str,
        pub size: usize,
        /// Name and offset of every field; `padding` is what C++ leaves unnamed.
        pub fields: &'static [(&'static str, usize)],
    }
}

/// Declares structures with C's layout, and `LAYOUTS`.
macro_rules! params {
    ($($(#[$attribute:meta])* $name:ident in $header:literal { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of kernels/", $header, ".")]
            #[derive(Debug, Clone, Copy, Pod, Zeroable)]
            #[repr(C)]
            $(#[$attribute])*
            pub(crate) struct $name {
                $(pub $field: $kind),*
            }
        )*

        for_build! {
            pub const LAYOUTS: &[Layout] = &[$(Layout {
                name: stringify!($name),
                header: $header,
                size: size_of::<$name>(),
                fields: &[$((stringify!($field), std::mem::offset_of!($name, $field))),*],
            }),*];
        }
    };
}

params! {
    #[repr(align(64))]
    TensorMap in "ptx/tensor_copy.h" { words: [u64; 16] }

    Matrix in "tile/matrix.h" {
        data: u64, scales: u64, stride: u64, rows: u32, row_bytes: u32, dtype: u32, padding: u32,
    }

    ContrastView in "tile/contrast.h" {
        index: u64, anchors: u32, candidates: u32, rule: u32, excludes_self: u32, device_scale: u64,
        scale: f32, padding: u32,
    }

    RowRule in "tile/row_rule.h" {
        kind: u32, first: f32, second: f32, negatives: f32, log_mean: u64,
    }

    RowPlanes in "tile/row_rule.h" {
        negatives_lse: u64, positive: u64, second_lse: u64, negatives_mean: u64, positives: u64,
        negatives: u64,
    }

    GradientParams in "similarity/owned_rows.h" {
        contrast: ContrastView, owner: Matrix, streamed: Matrix, dim: u32,
        tiles_per_split: u32, owner_is_anchor: u32, padding: u32, owner_offset2: u64,
        streamed_offset2: u64, far: u64, shift: u64, sums: u64, normalisers: u64,
    }

    WorkGrid in "hopper/tile.h" { tiles: u32, splits: u32, group: u32 }

    HopperGradientParams in "hopper/gradient.cu" {
        owner: TensorMap, streamed: TensorMap, gradient: GradientParams, grid: WorkGrid,
        padding: [u32; 15],
    }

    ScoresParams in "similarity/scores.h" {
        contrast: ContrastView, anchors: Matrix, candidates: Matrix, first_anchor: u32,
        tiles_per_split: u32, bound: u64, unless: u64, rows: u64, columns: u64, steps: u32,
        first_step: u32, summed: u32, first_summed: u32, negatives_lse: u64, row_offset2: u64,
        column_offset2: u64, far: u64, shift: u64, weights: Matrix, scores: u64, lists: u64,
        lengths: u64, k: u32, growth: u32,
    }

    HopperScoresParams in "hopper/scores.h" {
        anchors: TensorMap, candidates: TensorMap, weights: TensorMap, scores: ScoresParams,
        grid: WorkGrid, padding: [u32; 5],
    }

    ScoreOptions in "similarity/options.h" {
        anchor_ids: u64, candidate_ids: u64, anchor_labels: u64, candidate_labels: u64,
        starts: u64, listed: u64, bias: u64, guarded: u64, margin: f32, exponents: [f32; 2],
        sign: f32, sums_negatives: u32, logit_bias: f32, device_bias: u64, second: u64, sets: u64,
        second_offset2: u64, positive: u64, uniform: u64,
    }

    OptionScoresParams in "similarity/options.h" { scores: ScoresParams, options: ScoreOptions }

    HopperOptionScoresParams in "hopper/options.h" {
        anchors: TensorMap, candidates: TensorMap, weights: TensorMap, scores: ScoresParams,
        options: ScoreOptions, grid: WorkGrid, padding: [u32; 3],
    }

    HopperProductParams in "hopper/product.cu" {
        left: TensorMap, right: TensorMap, product: ProductParams, grid: WorkGrid,
        padding: [u32; 15],
    }

    ProductParams in "similarity/product.h" {
        left: Matrix, right: Matrix, rows: u32, columns: u32, summed: u32, slabs_per_split: u32,
        accumulate: u32, padding: u32, sums: u64, shift: u64,
    }

    PositivesParams in "similarity/positives.cu" {
        contrast: ContrastView, anchors: Matrix, candidates: Matrix, own_keys: Matrix,
        dim: u32, padding: u32, not_finite: u64, bias: u64, positive: u64,
        square_norms: u64,
    }

    BoundParams in "similarity/positives.cu" {
        contrast: ContrastView, square_norms: u64, positive: u64, largest: f32, above: f32,
        bound: u64,
    }

    MeanPositivesParams in "similarity/positives.cu" {
        contrast: ContrastView, positive: u64, inverse: f32, padding: u32, log_mean: u64,
    }

    CountParams in "similarity/positives.cu" {
        positive: u64, weights: u64, rows: u32, padding: u32, counted: u64,
    }

    OffsetParams in "similarity/positives.cu" {
        offset: i64, anchors: u32, candidates: u32, index: u64,
    }

    LabelParams in "similarity/positives.cu" {
        anchors: u64, candidates: u64, anchor_count: u32, candidate_count: u32, index: u64,
    }

    GroupParams in "similarity/positives.cu" {
        index: u64, anchors: u32, candidates: u32, passes: u32, padding: u32, order: u64,
        other: u64, starts: u64,
    }

    MergeParams in "similarity/rows.cu" {
        of_rows: RowPlanes, others: RowPlanes, rows: u32, padding: u32,
    }

    StatisticsParams in "similarity/rows.cu" {
        partial: u64, splits: u32, rows: u32, running: u64, unless: u64, first: u32, last: u32,
        lanes: u32, symmetric: u32, not_finite: u64, far: u64, contrast: ContrastView,
        rule: RowRule, of_rows: RowPlanes, second: u64, sets: u64, weights: u64, offset2: u64,
        negatives_mass: u64, positive_mass: u64, second_offset2: u64, uniform: u64,
    }

    ShiftParams in "similarity/rows.cu" {
        row_mass: u64, column_mass: u64, rows: u32, columns: u32, shift: u64,
    }

    FitParams in "similarity/rows.cu" {
        negatives_lse: u64, offset2: u64, square_norms: u64, weights: u64, rows: u32,
        lowest: f32, range: f32, padding: u32, bound: u64, fit: u64, shift: u64,
    }

    FoldParams in "similarity/rows.cu" {
        partial: u64, offset2: u64, splits: u32, rows: u32, dim: u32, padding: u32,
        anchors: Matrix, folded: Matrix, shift: u64, factors: u64,
    }

    FinishParams in "similarity/rows.cu" {
        sums: u64, normalisers: u64, splits: u32, rows: u32, dim: u32, shifted: u32, warps: u32,
        first_row: u32, factors: u64, contrast: ContrastView, coefficient: f32, of_candidates: u32,
        counted: u64, weights: u64, added: u64, negatives_mass: u64, row_mass: u64, column_mass: u64, partners: Matrix, own_keys: u32,
        accumulates: u32, starts: u64, order: u64, rows_of: Matrix, gradient: Matrix,
        shift: u64, dots: u64,
    }

    ReduceParams in "similarity/rows.cu" {
        of_rows: RowPlanes, of_columns: RowPlanes, weights: u64, counted: u64, dots: u64, rows: u32, columns: u32, row_weight: f64, dot_weight: f64, scale_weight: f64,
        rule: RowRule, contrast: ContrastView, result: u64,
    }

    ColumnSumParams in "similarity/bias.cu" {
        weights: Matrix, columns: u32, accumulate: u32, sums: u64,
    }

    FinishBiasParams in "similarity/bias.cu" {
        contrast: ContrastView, sums: u64, shift: u64, row_mass: u64, starts: u64, order: u64,
        counted: u64, coefficient: f32, accumulates: u32, gradient: Matrix,
    }

    FinishLogitBiasParams in "similarity/bias.cu" {
        sums: u64, shift: u64, coefficient: f32, columns: u32, accumulates: u32, padding: u32,
        gradient: Matrix,
    }

    TargetRowsParams in "similarity/targets.cu" {
        contrast: ContrastView, scores: u64, target_scores: u64, bias: u64, target_scale: f32,
        padding: u32, target_finite: u64, not_finite: u64, of_rows: RowPlanes, weights: u64,
        to: Matrix, shift: u64,
    }

    SelectParams in "similarity/top_k.cu" {
        scores: u64, rows: u32, candidates: u32, k: u32, first_row: u32, excludes_self: u32,
        padding: u32, indices: u64, best: u64,
    }

    SelectListedParams in "similarity/top_k.cu" {
        lists: u64, lengths: u64, rows: u32, splits: u32, k: u32, first_row: u32,
        excludes_self: u32, lanes_log2: u32, indices: u64, best: u64,
    }

    TripletParams in "rowwise/triplet.cu" {
        anchors: Matrix, candidates: Matrix, gradient: Matrix, positives: u64, negatives: u64,
        losses: u64, positive_starts: u64, positive_order: u64, negative_starts: u64,
        negative_order: u64, dim: u32, margin: f32, factor: f32, accumulates: u32,
        of_anchors: u32, padding: u32, weight: f64, result: u64,
    }

    NormalizeParams in "rowwise/normalize.cu" {
        x: Matrix, y: Matrix, norms: u64, rows: u32, dim: u32, epsilon: f32, warp_rows: u32,
    }

    QuantizeParams in "rowwise/quantize.cu" {
        x: Matrix, codes: Matrix, rows: u32, dim: u32, scaled_rows: u32, warp_rows: u32,
    }

    NormalizeBackwardParams in "rowwise/normalize.cu" {
        y: Matrix, dy: Matrix, dx: Matrix, norms: u64, rows: u32, dim: u32,
        epsilon: f32, short_norm: f32, warp_rows: u32, padding: u32,
    }

    MomentumTensor in "rowwise/state.cu" {
        query: u64, key: u64, shadow: u64, length: u64, first_block: u64,
    }

    MomentumParams in "rowwise/state.cu" {
        tensors: u64, count: u32, dtype: u32, device_momentum: u64, momentum: f32, padding: u32,
    }

    UpdateRowsParams in "rowwise/state.cu" {
        bank: Matrix, keys: Matrix, rows: u64, dim: u32, momentum: f32, epsilon: f32, padding: u32,
    }

    CopyRowsParams in "rowwise/state.cu" {
        from: Matrix, to: Matrix, rows: u32, from_columns: u32, to_columns: u32,
        first_from: u32, first_to: u32, capacity: u32, cursor: u64,
    }

    CursorParams in "rowwise/state.cu" { cursor: u64, rows: u32, capacity: u32 }
}

/// Declares codes that kernels switch on, and `CODES`.
macro_rules! codes {
    ($($name:ident = $value:literal in $header:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of kernels/", $header, ".")]
            pub(crate) const $name: u32 = $value;
        )*

        for_build! {
            /// Name, the file under kernels/ that declares it, and value.
            pub const CODES: &[(&str, &str, u32)] = &[$((stringify!($name), $header, $name)),*];
        }
    };
}

codes! {
    DTYPE_F32 = 0 in "tile/numbers.h";
    DTYPE_F16 = 1 in "tile/numbers.h";
    DTYPE_BF16 = 2 in "tile/numbers.h";
    DTYPE_E4M3 = 3 in "tile/numbers.h";
    POSITIVE_NONE = 0 in "tile/contrast.h";
    POSITIVE_PAIRED = 1 in "tile/contrast.h";
    POSITIVE_DIAGONAL = 2 in "tile/contrast.h";
    POSITIVE_INDEX = 3 in "tile/contrast.h";
}
