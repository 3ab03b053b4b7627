//! Graphs: captured work, run again in the order in which it was captured.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;

use super::stream::{Moment, Work};
use super::{Answer, Driver, Handle, status, value};

pub(super) struct Graph {
    work: Arc<[Work]>,
}

pub(super) struct Executable {
    work: Arc<[Work]>,
    /// Its last run, for "each launch is ordered behind any previous launches of hGraphExec".
    last: Option<Moment>,
}

impl Driver {
    pub(super) fn add_graph(&mut self, work: Vec<Work>) -> Handle {
        let handle = self.new_handle();
        self.contents
            .graphs
            .insert(handle, Graph { work: work.into() });
        handle
    }

    pub(super) fn instantiate(&mut self, graph: Handle, flags: u64) -> Answer<Handle> {
        self.enter()?;
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let graph = self.contents.graphs.get(&graph);
        let work = Arc::clone(&graph.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?.work);
        let handle = self.new_handle();
        let executable = Executable { work, last: None };
        self.contents.executables.insert(handle, executable);
        Ok(handle)
    }

    pub(super) fn launch_graph(&mut self, executable: Handle, stream: Handle) -> Answer {
        self.enter()?;
        let found = self.contents.executables.get(&executable);
        let found = found.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let (work, last) = (Arc::clone(&found.work), found.last);
        let (stream, of) = self.stream(stream)?;
        if of.capture.is_some() {
            // As a child of the graph that is captured.
            return work
                .iter()
                .try_for_each(|work| self.put(stream, work.clone()));
        }
        let before = last.map(Work::WaitFor);
        for work in before.into_iter().chain(work.iter().cloned()) {
            self.put(stream, work)?;
        }
        let last = Some(self.now(stream));
        if let Some(found) = self.contents.executables.get_mut(&executable) {
            found.last = last;
        }
        Ok(())
    }

    fn destroy_graph(&mut self, graph: Handle) -> Answer {
        self.enter()?;
        let removed = self.contents.graphs.remove(&graph);
        removed
            .map(|_| ())
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// What has been launched still runs.
    fn destroy_executable(&mut self, executable: Handle) -> Answer {
        self.enter()?;
        let removed = self.contents.executables.remove(&executable);
        removed
            .map(|_| ())
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut Handle,
    graph: Handle,
    flags: u64,
) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { value(executable, |driver| driver.instantiate(graph, flags)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> CUresult {
    status(|driver| driver.launch_graph(executable, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> CUresult {
    status(|driver| driver.destroy_graph(graph))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: Handle) -> CUresult {
    status(|driver| driver.destroy_executable(executable))
}
