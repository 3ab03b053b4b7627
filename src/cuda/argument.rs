//! Converts arguments of the verbs to the types of `launch`, and checks that outputs share memory with nothing.

use std::cell::RefCell;

use super::device::CudaDevice;
use super::region::CudaRegion;
use super::view::{CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
use crate::contrast::same_length;
use crate::element::Element;
use crate::engine::MomentumTensor;
use crate::error::Error;
use crate::gradients::Gradients;
use crate::launch::{DeviceMatrix, DeviceMomentum, DeviceVector};
use crate::problem::Problem;
use crate::triplet::TripletProblem;

/// An argument's name and its memory.
pub(super) type Named = (&'static str, CudaRegion);

/// Converts inputs to `launch`'s types, and notes their memory, which outputs must not share.
struct Inputs<'d> {
    device: &'d CudaDevice,
    taken: RefCell<Vec<Named>>,
}

impl<'d> Inputs<'d> {
    fn on(device: &'d CudaDevice) -> Self {
        Self {
            device,
            taken: RefCell::default(),
        }
    }

    fn matrix<T: Element>(
        &self,
        argument: &'static str,
        view: &CudaRows<'_, T>,
    ) -> Result<DeviceMatrix, Error> {
        self.taken.borrow_mut().push((argument, view.region()));
        view.on(argument, self.device)
    }

    fn vector<T>(
        &self,
        argument: &'static str,
        vector: &CudaVector<'_, T>,
    ) -> Result<DeviceVector, Error> {
        self.taken.borrow_mut().push((argument, vector.region()));
        Ok(DeviceVector {
            address: vector.on(argument, self.device)?,
            length: vector.len(),
        })
    }
}

/// The problem in `launch`'s types, and the memory that outputs must not share.
pub(super) fn located_problem<T: Element>(
    problem: &Problem<CudaRows<'_, T>>,
    device: &CudaDevice,
) -> Result<(Problem<DeviceMatrix>, Vec<Named>), Error> {
    let inputs = Inputs::on(device);
    let problem = problem.try_map(
        |argument, view| inputs.matrix(argument, view),
        |argument, index| inputs.vector(argument, index),
        |argument, floats| inputs.vector(argument, floats),
        |argument, given| {
            same_length(argument, given.len(), 1)?;
            Ok(inputs.vector(argument, given)?.address)
        },
    )?;
    Ok((problem, inputs.taken.into_inner()))
}

/// The triplets in `launch`'s types, and the memory that outputs must not share.
pub(super) fn located_triplets<T: Element>(
    problem: &TripletProblem<CudaRows<'_, T>>,
    device: &CudaDevice,
) -> Result<(TripletProblem<DeviceMatrix>, Vec<Named>), Error> {
    let inputs = Inputs::on(device);
    let problem = problem.try_map(
        |argument, view| inputs.matrix(argument, view),
        |argument, index| inputs.vector(argument, index),
    )?;
    Ok((problem, inputs.taken.into_inner()))
}

/// The gradients in `launch`'s types; an error where they share memory with `taken` or each other.
pub(super) fn located_gradients<G: Element>(
    gradients: &Gradients<CudaRowsMut<'_, G>>,
    taken: &[Named],
    device: &CudaDevice,
) -> Result<Gradients<DeviceMatrix>, Error> {
    let (dk, dbias) = (gradients.dk.as_ref(), gradients.dbias.as_ref());
    let dbias = dbias.map(|dbias| dbias.on("gradients.dbias", device));
    let located = Gradients {
        dq: gradients.dq.on("gradients.dq", device)?,
        dk: dk.map(|dk| dk.on("gradients.dk", device)).transpose()?,
        dbias: dbias.transpose()?,
        accumulate: gradients.accumulate,
    };
    let outputs: Vec<Named> = gradient_regions(gradients).collect();
    require_disjoint(&outputs, taken)?;
    Ok(located)
}

pub(super) fn gradient_regions<G>(
    Gradients { dq, dk, dbias, .. }: &Gradients<CudaRowsMut<'_, G>>,
) -> impl Iterator<Item = Named> {
    let dk = dk.as_ref().map(|dk| ("gradients.dk", dk.region()));
    let dbias = dbias.as_ref();
    let dbias = dbias.map(|dbias| ("gradients.dbias", dbias.region()));
    let dq = [("gradients.dq", dq.region())];
    dq.into_iter().chain(dk).chain(dbias)
}

/// A tensor of a momentum update in `launch`'s types, the memory that the update writes, and the memory that it reads.
pub(super) fn located_tensor<T>(
    tensor: &MomentumTensor<CudaVector<'_, T>, CudaVectorMut<'_, f32>, CudaVectorMut<'_, T>>,
    device: &CudaDevice,
) -> Result<(DeviceMomentum, Vec<Named>, Named), Error> {
    let length = tensor.key.len();
    let shadow = tensor.shadow.as_ref();
    same_length("query", tensor.query.len(), length)?;
    same_length("shadow", shadow.map_or(length, CudaVectorMut::len), length)?;
    let located = DeviceMomentum {
        query: tensor.query.on("query", device)?,
        key: tensor.key.on("key", device)?,
        shadow: match shadow {
            Some(shadow) => shadow.on("shadow", device)?,
            None => 0,
        },
        length,
    };
    let mut outputs = vec![("key", tensor.key.region())];
    outputs.extend(shadow.map(|shadow| ("shadow", shadow.region())));
    Ok((located, outputs, ("query", tensor.query.region())))
}

/// Checks that outputs share memory neither with inputs nor with each other.
pub(super) fn require_disjoint(outputs: &[Named], inputs: &[Named]) -> Result<(), Error> {
    for (index, (argument, region)) in outputs.iter().enumerate() {
        for (other_argument, other) in inputs.iter().chain(&outputs[..index]) {
            region.require_disjoint(argument, other, other_argument)?;
        }
    }
    Ok(())
}
