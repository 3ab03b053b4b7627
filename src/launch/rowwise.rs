//! Row-wise verbs as launches: normalisation and its gradient, momentum updates, memory banks, copies of rows.

use super::kernels::{self, Kernel};
use super::matrix::dtype_code;
use super::params::{
    CopyRowsParams, CursorParams, MomentumParams, MomentumTensor, NormalizeBackwardParams,
    NormalizeParams, UpdateRowsParams,
};
use super::{Device, DeviceMatrix, DeviceVector, count, element_bytes};
use crate::bank;
use crate::contrast::{same_dim, same_rows};
use crate::element::DType;
use crate::error::{Error, positive};
use crate::momentum;
use crate::queue::Ring;

/// Blocks that each SM must get before a warp holds several rows.
const NORMALIZE_BLOCKS: usize = 4;

/// One tensor of a momentum update, in device memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceMomentum {
    /// Address of the query encoder's parameters.
    pub query: u64,
    /// Address of the key encoder's parameters, f32.
    pub key: u64,
    /// Address of a copy of `key` in the query's type; 0 when not wanted.
    pub shadow: u64,
    /// Elements.
    pub length: usize,
}

/// Tensors of momentum updates, in device memory.
pub(super) struct MomentumTable<D: Device> {
    buffer: D::Buffer,
    count: u32,
    blocks: u32,
    /// The type of the query encoder's parameters.
    dtype: DType,
}

/// The verbs that work row by row.
pub(crate) struct Rowwise<'d, D: Device> {
    pub(super) device: &'d D,
}

impl<'d, D: Device> Rowwise<'d, D> {
    pub(crate) fn new(device: &'d D) -> Self {
        Self { device }
    }

    /// Rows that a warp of the kernel holds in registers: up to `most` of 128 elements. A warp holds several only where
    /// every SM still gets blocks. 0: rows are too long, or not whole aligned quads of elements.
    pub(super) fn warp_rows(
        &self,
        kernel: &Kernel,
        matrices: &[DeviceMatrix],
        most: usize,
    ) -> usize {
        let DeviceMatrix { rows, dim, .. } = matrices[0];
        let whole = matrices.iter().all(|matrix| {
            let quad = 4 * element_bytes(matrix.dtype) as u64;
            matrix.stride.is_multiple_of(4) && matrix.address.is_multiple_of(quad)
        });
        if !whole || !dim.is_multiple_of(4) {
            return 0;
        }
        let places = kernel.warps() * NORMALIZE_BLOCKS * self.device.hardware().sms.max(1) as usize;
        let fits = most / dim.div_ceil(128).next_power_of_two();
        let wanted = (rows / places).clamp(1, most);
        fits.min(1 << wanted.ilog2())
    }

    /// y_i = x_i / max(‖x_i‖, ε), and ‖x_i‖ into `norms`, N f32.
    pub(crate) fn normalize(
        &self,
        x: DeviceMatrix,
        y: DeviceMatrix,
        norms: (u64, usize),
        epsilon: f32,
    ) -> Result<(), Error> {
        positive("epsilon", epsilon)?;
        same_rows("y", y.rows, x.rows)?;
        same_dim("y", y.dim, x.dim)?;
        same_rows("norms", norms.1, x.rows)?;
        let warp_rows = self.warp_rows(kernels::NORMALIZE, &[x, y], kernels::NORMALIZE_QUADS);
        let params = NormalizeParams {
            x: x.into(),
            y: y.into(),
            norms: norms.0,
            rows: count("x", x.rows)?,
            dim: x.dim as u32,
            epsilon,
            warp_rows: warp_rows as u32,
        };
        let warps = x.rows.div_ceil(warp_rows.max(1));
        self.device.start_rows(kernels::NORMALIZE, warps, &params)
    }

    /// dx_i = (dy_i − y_i⟨y_i, dy_i⟩)/‖x_i‖; dy_i/ε where ‖x_i‖ ≤ ε; 0 where a short row overflows.
    pub(crate) fn normalize_backward(
        &self,
        y: DeviceMatrix,
        norms: (u64, usize),
        dy: DeviceMatrix,
        dx: DeviceMatrix,
        epsilon: f32,
    ) -> Result<(), Error> {
        positive("epsilon", epsilon)?;
        same_rows("norms", norms.1, y.rows)?;
        for (argument, matrix) in [("dy", dy), ("dx", dx)] {
            same_rows(argument, matrix.rows, y.rows)?;
            same_dim(argument, matrix.dim, y.dim)?;
        }
        let kernel = kernels::NORMALIZE_BACKWARD;
        let warp_rows = self.warp_rows(kernel, &[y, dy, dx], kernels::BACKWARD_QUADS);
        let params = NormalizeBackwardParams {
            y: y.into(),
            dy: dy.into(),
            dx: dx.into(),
            norms: norms.0,
            rows: count("y", y.rows)?,
            dim: y.dim as u32,
            epsilon,
            short_norm: epsilon.max(dx.dtype.min_positive()),
            warp_rows: warp_rows as u32,
            padding: 0,
        };
        let warps = y.rows.div_ceil(warp_rows.max(1));
        self.device.start_rows(kernel, warps, &params)
    }

    /// key ← m·key + (1 − m)·query for every tensor, in one launch. `query` and `shadow` are `dtype`.
    pub(crate) fn momentum_update(
        &self,
        momentum: f32,
        dtype: DType,
        tensors: &[DeviceMomentum],
    ) -> Result<(), Error> {
        momentum::check(momentum)?;
        let table = self.momentum_table(dtype, tensors)?;
        self.update(&table, momentum, 0)
    }

    /// The tensors of momentum updates, written to the device once.
    pub(super) fn momentum_table(
        &self,
        dtype: DType,
        tensors: &[DeviceMomentum],
    ) -> Result<MomentumTable<D>, Error> {
        let mut entries = Vec::with_capacity(tensors.len());
        let mut blocks = 0u64;
        for tensor in tensors.iter().filter(|tensor| tensor.length > 0) {
            entries.push(MomentumTensor {
                query: tensor.query,
                key: tensor.key,
                shadow: tensor.shadow,
                length: tensor.length as u64,
                first_block: blocks,
            });
            blocks += (tensor.length as u64).div_ceil(kernels::MOMENTUM_CHUNK as u64);
        }
        let entries_bytes = bytemuck::cast_slice::<_, u8>(&entries);
        let buffer = self.device.allocate(entries_bytes.len())?;
        self.device.write(D::address(&buffer), entries_bytes)?;
        Ok(MomentumTable {
            buffer,
            count: count("tensors", entries.len())?,
            blocks: count("tensors", blocks as usize)?,
            dtype,
        })
    }

    /// Updates the tensors of a table. `device_momentum` is the address of m; where it is 0, m is `momentum`.
    pub(super) fn update(
        &self,
        table: &MomentumTable<D>,
        momentum: f32,
        device_momentum: u64,
    ) -> Result<(), Error> {
        if table.count == 0 {
            return Ok(());
        }
        let params = MomentumParams {
            tensors: D::address(&table.buffer),
            count: table.count,
            dtype: dtype_code(table.dtype),
            device_momentum,
            momentum,
            padding: 0,
        };
        let grid = [table.blocks, 1, 1];
        self.device.start(kernels::MOMENTUM_UPDATE, grid, &params)
    }

    /// Moves the bank's row `rows[i]` towards the i-th key, and normalises it; of keys with one index the last counts.
    pub(crate) fn update_rows(
        &self,
        bank: DeviceMatrix,
        rows: DeviceVector,
        keys: DeviceMatrix,
        momentum: f32,
    ) -> Result<(), Error> {
        momentum::check(momentum)?;
        same_dim("keys", keys.dim, bank.dim)?;
        same_rows("rows", rows.length, keys.rows)?;
        count("bank", bank.rows)?;
        count("keys", keys.rows)?;
        let params = UpdateRowsParams {
            bank: bank.into(),
            keys: keys.into(),
            rows: rows.address,
            dim: bank.dim as u32,
            momentum,
            epsilon: bank::EPSILON,
            padding: 0,
        };
        let kernel = kernels::UPDATE_ROWS;
        self.device.start_rows(kernel, keys.rows, &params)
    }

    /// Copies all rows; columns of `to` that `from` lacks become 0.
    pub(super) fn copy(&self, from: DeviceMatrix, to: DeviceMatrix) -> Result<(), Error> {
        self.copy_rows(from, to, [0, 0, from.rows], 0)
    }

    /// Writes a batch over the oldest rows of a ring. `copies` are pairs of a batch's matrix and the ring's: of keys, and
    /// of labels if the ring has them. `past` is the address of a word that is added to the ring's cursor; 0: nothing is
    /// added.
    pub(crate) fn push(
        &self,
        copies: &[[DeviceMatrix; 2]],
        ring: &mut Ring,
        past: u64,
    ) -> Result<(), Error> {
        // The kernel wraps around, so one launch copies both ranges.
        let [first, second] = ring.advance(copies[0][0].rows);
        let rows = first.count + second.count;
        for &[from, to] in copies {
            self.copy_rows(from, to, [first.source, first.target, rows], past)?;
        }
        Ok(())
    }

    fn copy_rows(
        &self,
        from: DeviceMatrix,
        to: DeviceMatrix,
        [first_from, first_to, rows]: [usize; 3],
        cursor: u64,
    ) -> Result<(), Error> {
        let params = CopyRowsParams {
            from: from.into(),
            to: to.into(),
            rows: count("rows", rows)?,
            from_columns: from.dim as u32,
            to_columns: to.dim as u32,
            first_from: count("rows", first_from)?,
            first_to: count("rows", first_to)?,
            capacity: count("rows", to.rows)?,
            cursor,
        };
        self.device.start_rows(kernels::COPY_ROWS, rows, &params)
    }

    /// Writes `keys` into the ring and advances its cursor, the word in device memory at the address `cursor`. The
    /// launches are the same for every batch, unlike those of [`push`](Self::push) with the host's cursor.
    pub(super) fn enqueue(
        &self,
        keys: DeviceMatrix,
        ring: DeviceMatrix,
        cursor: u64,
    ) -> Result<(), Error> {
        // The copy of a ring at cursor 0, to which the kernel adds the word.
        let mut from_row_0 = Ring {
            capacity: ring.rows,
            fill: 0,
            cursor: 0,
        };
        self.push(&[[keys, ring]], &mut from_row_0, cursor)?;
        let params = CursorParams {
            cursor,
            rows: count("keys", keys.rows)?,
            capacity: count("queue", ring.rows)?,
        };
        self.device.start(kernels::ADVANCE_CURSOR, [1; 3], &params)
    }
}
