"""Operations, stems, kernels and costs that several space families are built from."""
