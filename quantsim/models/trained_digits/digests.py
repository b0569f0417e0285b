"""What the files of the models of the digits hold. It stands in source, so that rows know which weights they are of."""

SHA256 = {
    "unet-s0": "6feda31df0ff4b29785179e5e6ecc51986d24ca1e61a8dc232ba6128b69a0ccd",
    "unet-s1": "e3e2b02ee4f8b3e1d4e667d4fef91da842f32e89c29ff9c46e259d023248667f",
    "unet-s2": "140174d4150139ba60cc0fd3c982946dbcf7fd48cb25f8be95f80d61332d8f91",
    "classifier": "ff60fc30cfdb61f9af30daf8f59f1140f69c0b331c937d0fc6b1e0035b7a3126",
}
