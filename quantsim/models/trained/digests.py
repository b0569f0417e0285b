"""What the files of the trained models hold. It stands in source, so that rows know which weights they are of."""

SHA256 = {
    "lm-w32-s0": "a8195ad99f27fcdf350710ea34eb0ea68adef1d0b843be3a5aeb0efbd80efc22",
    "lm-w32-s1": "d841b353e047ba3238a0be418a6418d2f0504f9ea84d55f30e7506d220f5b000",
    "lm-w32-s2": "cab1a6e4462f72d00955d5ed9fd3d1e75a8868509b937601e3bd1735975f27ba",
    "lm-w64-s0": "157bc81c21991137c628a34694e484591f6a813f1c3593a2c9b3b234808c56fa",
    "lm-w64-s1": "fa60b4e5423d640162b3fa0907feacfc1b76545532eb0098ad806a93aaa778f4",
    "lm-w64-s2": "d535ac36eee9a40bd42db30a50521d5ee88565d61f0d601e6925501b2f1223bb",
    "lm-w128-s0": "ceb5e9ef27b51973390bfa840924e10cdc235be8d5768cd89a52261ee4dc301c",
    "lm-w128-s1": "375b7b0282b0d8ed270836cac6d59ea7166d360bffd5ee1cc29284631b16e607",
    "lm-w128-s2": "7c6b5b09091a0e1661ec3dce03ffdbae9391c088bef93e15658c6cea50b5cb50",
}
