//! Calls a test with each engine that this build has.

macro_rules! on_engines {
    ($test:ident) => {{
        $test(&infonce::CpuEngine::new())?;
        #[cfg(feature = "emulator")]
        $test(&infonce::emulator::EmulatedEngine::new(
            infonce::emulator::Schedule::Mixed,
            3,
        ))?;
        Ok(())
    }};
}
