//! Row-wise verbs as launches: normalisation and its gradient, momentum updates, copies of rows.

use super::params::{
    CopyRowsParams, MomentumEntry, MomentumParams, NormalizeBackwardParams, NormalizeParams,
};
use super::prepared::view;
use super::similarity::WARP_ROWS;
use super::{Device, DeviceMatrix, Launch, count};
use crate::contrast::{same_dim, same_rows};
use crate::element::DType;
use crate::error::{Error, positive};

/// Numbers of a block of the momentum update.
const MOMENTUM_CHUNK: u64 = 4096;

/// One tensor of a momentum update, in device memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceMomentum {
    /// Parameters of the query encoder.
    pub query: u64,
    /// Parameters of the key encoder, f32.
    pub key: u64,
    /// A copy of `key` in the query's type; 0 when not wanted.
    pub shadow: u64,
    /// Numbers.
    pub length: usize,
}

/// The verbs that work row by row.
pub(crate) struct Rowwise<'d, D: Device> {
    pub(super) device: &'d D,
}

impl<'d, D: Device> Rowwise<'d, D> {
    pub(crate) fn new(device: &'d D) -> Self {
        Self { device }
    }

    fn launch_rows<P: bytemuck::Pod>(
        &self,
        kernel: &'static str,
        rows: usize,
        params: &P,
    ) -> Result<(), Error> {
        self.device.launch(&Launch {
            kernel,
            grid: [rows.div_ceil(WARP_ROWS) as u32, 1, 1],
            threads: 32 * WARP_ROWS as u32,
            shared_bytes: 0,
            params: bytemuck::bytes_of(params),
        })
    }

    /// y_i = x_i / max(‖x_i‖, ε), and ‖x_i‖ into `norms`, N numbers of f32.
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
        let params = NormalizeParams {
            x: view(x),
            y: view(y),
            norms: norms.0,
            rows: count("x", x.rows)?,
            dim: x.dim as u32,
            epsilon,
            padding: 0,
        };
        self.launch_rows("normalize", x.rows, &params)
    }

    /// dx_i = (dy_i − y_i⟨y_i, dy_i⟩)/‖x_i‖; dy_i/ε where ‖x_i‖ ≤ ε.
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
        let params = NormalizeBackwardParams {
            y: view(y),
            dy: view(dy),
            dx: view(dx),
            norms: norms.0,
            rows: count("y", y.rows)?,
            dim: y.dim as u32,
            epsilon,
            padding: 0,
        };
        self.launch_rows("normalize_backward", y.rows, &params)
    }

    /// key = m·key + (1 − m)·query for every tensor, in one launch. `query` and `shadow` are of
    /// type `dtype`.
    pub(crate) fn momentum_update(
        &self,
        momentum: f32,
        dtype: DType,
        tensors: &[DeviceMomentum],
    ) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&momentum) {
            return Err(Error::Scalar {
                argument: "momentum",
                given: f64::from(momentum),
                allowed: "between 0 and 1",
            });
        }
        let mut entries = Vec::with_capacity(tensors.len());
        let mut blocks = 0u64;
        for tensor in tensors.iter().filter(|tensor| tensor.length > 0) {
            entries.push(MomentumEntry {
                query: tensor.query,
                key: tensor.key,
                shadow: tensor.shadow,
                length: tensor.length as u64,
                first_block: blocks,
            });
            blocks += (tensor.length as u64).div_ceil(MOMENTUM_CHUNK);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let table = bytemuck::cast_slice::<_, u8>(&entries);
        let buffer = self.device.allocate(table.len())?;
        self.device.write(D::address(&buffer), table)?;
        let params = MomentumParams {
            tensors: D::address(&buffer),
            count: count("tensors", entries.len())?,
            dtype: match dtype {
                DType::F32 => 0,
                DType::F16 => 1,
                DType::Bf16 => 2,
            },
            momentum,
            padding: 0,
        };
        self.device.launch(&Launch {
            kernel: "momentum_update",
            grid: [count("tensors", blocks as usize)?, 1, 1],
            threads: 256,
            shared_bytes: 0,
            params: bytemuck::bytes_of(&params),
        })
    }

    /// Copies `rows` rows from row `first_from` on to rows `first_to` and following, which wrap
    /// around at the end of `to`. Columns that `from` lacks become zero.
    pub(crate) fn copy_rows(
        &self,
        from: DeviceMatrix,
        first_from: usize,
        to: DeviceMatrix,
        first_to: usize,
        rows: usize,
    ) -> Result<(), Error> {
        let params = CopyRowsParams {
            from: view(from),
            to: view(to),
            rows: count("rows", rows)?,
            from_columns: from.dim as u32,
            to_columns: to.dim as u32,
            first_from: count("rows", first_from)?,
            first_to: count("rows", first_to)?,
            capacity: count("rows", to.rows)?,
        };
        self.launch_rows("copy_rows", rows, &params)
    }
}
