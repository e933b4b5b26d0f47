"""Audio: files to samples, samples to features, and the augmentation of training clips.

May import: the modules of kws/ itself, such as config and counter_rng (and torch; features, augment,
waves, frames, noise and ta need it, the others work without it). Does not depend on corpus, index or training.

Read in this order:
    formats             which files hold sound: by name, by first bytes
    codec               encoded audio <-> 16 kHz int16 samples
    containers, chunks  headers by their structure: where the sound is (sound_bytes), what is missing
    ffmpeg, remarks     what libsndfile does not read; what was fixed or looks implausible
    audio_files         audio files below folders, decoded by threads
    microphone          blocks of samples from a microphone
    features            samples -> mel features, the network's input; ta imports torchaudio
    augment_parameters  what is drawn for each training draw; noise and rooms: background noise, reverberation
    augment             the augmentation chain that applies it
    waves, frames       its inner loops: tensor operations for GPUs, compiled loops (kernels) for CPUs
"""
