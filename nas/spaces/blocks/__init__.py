"""Operations, stems, kernels and costs that several families of spaces share."""
