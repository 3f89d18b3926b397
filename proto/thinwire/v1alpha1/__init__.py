"""Version v1alpha1 of the contracts: .proto files and the code generated from them."""
