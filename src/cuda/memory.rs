//! The types of a device's memory: [`Memory`] for [`CudaDevice`].

use bytemuck::Pod;

use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::queue::CudaQueue;
use super::results::{CudaNumber, CudaResults, CudaStatistics, CudaTopK};
use super::view::{CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
use crate::element::Element;
use crate::error::Error;
use crate::memory::Memory;
use crate::queue::KeyQueue;
use crate::statistics::Statistics;

impl Memory for CudaDevice {
    type Rows<'a, T: Element> = CudaRows<'a, T>;
    type RowsMut<'a, T: Element> = CudaRowsMut<'a, T>;
    type Vector<'a, T: Pod> = CudaVector<'a, T>;
    type VectorMut<'a, T: Pod> = CudaVectorMut<'a, T>;
    type Buffer<T: Pod> = CudaBuffer<T>;
    type Queue<T: Element> = CudaQueue<T>;
    type Number = CudaNumber;
    type Statistics = CudaStatistics;
    type Evaluation = CudaResults;
    type TopK = CudaTopK;

    fn upload<T: Pod>(&self, elements: &[T]) -> Result<CudaBuffer<T>, Error> {
        CudaBuffer::upload(self, elements)
    }

    fn download<T: Pod>(&self, buffer: &CudaBuffer<T>) -> Result<Vec<T>, Error> {
        buffer.download()
    }

    fn rows<'a, T: Element>(
        &self,
        buffer: &'a CudaBuffer<T>,
        rows: usize,
        dim: usize,
    ) -> Result<CudaRows<'a, T>, Error> {
        buffer.rows(rows, dim)
    }

    fn rows_mut<'a, T: Element>(
        &self,
        buffer: &'a mut CudaBuffer<T>,
        rows: usize,
        dim: usize,
    ) -> Result<CudaRowsMut<'a, T>, Error> {
        buffer.rows_mut(rows, dim)
    }

    fn shorten<'s, 'a: 's, T: Element>(rows: CudaRows<'a, T>) -> CudaRows<'s, T> {
        rows
    }

    fn reborrow<'s, T: Element>(rows: &'s mut CudaRowsMut<'_, T>) -> CudaRowsMut<'s, T> {
        rows.reborrow()
    }

    fn vector<'a, T: Pod>(&self, buffer: &'a CudaBuffer<T>) -> Result<CudaVector<'a, T>, Error> {
        buffer.vector()
    }

    fn vector_mut<'a, T: Pod>(
        &self,
        buffer: &'a mut CudaBuffer<T>,
    ) -> Result<CudaVectorMut<'a, T>, Error> {
        buffer.vector_mut()
    }

    fn queue<T: Element>(&self, queue: KeyQueue<T>) -> Result<CudaQueue<T>, Error> {
        CudaQueue::from_host(self, &queue)
    }

    fn filled<T: Element>(queue: &CudaQueue<T>) -> Option<CudaRows<'_, T>> {
        queue.filled()
    }

    fn labels<T: Element>(queue: &CudaQueue<T>) -> Option<CudaVector<'_, u32>> {
        queue.labels()
    }

    fn saved<T: Element>(&self, queue: &CudaQueue<T>) -> Result<KeyQueue<T>, Error> {
        queue.to_host()
    }

    fn statistics(&self, statistics: &Statistics) -> Result<CudaStatistics, Error> {
        CudaStatistics::upload(self, statistics)
    }
}
