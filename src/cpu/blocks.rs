//! Sizes of blocks of logits.

/// Columns of a block of logits. A group of rows has few enough logits in a block for the L2 cache. BLOCK is a
/// multiple of every kernel's panel and tile rows.
pub(super) const BLOCK: usize = 192;

/// Rows of a group: the rows whose logits are computed before their exponentials.
pub(super) const GROUP: usize = 48;

/// Logits of one group of rows and one block of columns.
pub(super) type LogitTile = [f32; GROUP * BLOCK];
