//! A set of a row's elements, and what its weights depend on.

/// Elements of a row whose word is `word`; there are as many words as elements.
#[derive(Clone, Copy)]
pub(crate) struct Set<'a> {
    pub word: u32,
    pub words: &'a [u32],
}

/// What a row's weights depend on, outside of a set and in it.
#[derive(Clone, Copy)]
pub(crate) struct SetTerms {
    pub offsets2: [f32; 2],
    pub factors: [f32; 2],
    pub summands: [f32; 2],
}
